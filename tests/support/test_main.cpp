// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// doctest's own code and main(), for every test: compiled once, because it takes longer than most
// tests do.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
