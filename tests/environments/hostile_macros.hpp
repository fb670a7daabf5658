// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What the headers of platforms and old libraries define as macros, under names that are ordinary
// words to everybody else. Their arguments and values do not matter: whoever uses one has no
// program.
#pragma once

#define ACTPACK_HOSTILE ) hostile (

// Macros with arguments. <windows.h>, <sys/param.h>:
#define min(a, b) ACTPACK_HOSTILE
#define max(a, b) ACTPACK_HOSTILE
#define MIN(a, b) ACTPACK_HOSTILE
#define MAX(a, b) ACTPACK_HOSTILE
#define isset(a, b) ACTPACK_HOSTILE
#define roundup(a, b) ACTPACK_HOSTILE
// macOS's AssertMacros.h:
#define check(assertion) ACTPACK_HOSTILE
#define require(assertion, label) ACTPACK_HOSTILE
#define verify(assertion) ACTPACK_HOSTILE
#define require_action(assertion, label, action) ACTPACK_HOSTILE
#define require_string(assertion, label, text) ACTPACK_HOSTILE
// Arduino.h:
#define F(text) ACTPACK_HOSTILE
#define abs(x) ACTPACK_HOSTILE
#define bit(b) ACTPACK_HOSTILE
#define constrain(x, low, high) ACTPACK_HOSTILE
#define round(x) ACTPACK_HOSTILE
#define sq(x) ACTPACK_HOSTILE
#define word(...) ACTPACK_HOSTILE
// <sys/sysmacros.h>, <assert.h>, and logging of many kinds:
#define major(device) ACTPACK_HOSTILE
#define minor(device) ACTPACK_HOSTILE
#define assert(condition) ACTPACK_HOSTILE
#define error(...) ACTPACK_HOSTILE
#define length(x) ACTPACK_HOSTILE
#define log(...) ACTPACK_HOSTILE
#define likely(x) ACTPACK_HOSTILE
#define unlikely(x) ACTPACK_HOSTILE

// Macros without. <windows.h>:
#define ABSOLUTE ACTPACK_HOSTILE
#define CONST ACTPACK_HOSTILE
#define DELETE ACTPACK_HOSTILE
#define DIFFERENCE ACTPACK_HOSTILE
#define ERROR ACTPACK_HOSTILE
#define FALSE ACTPACK_HOSTILE
#define IN ACTPACK_HOSTILE
#define INFINITE ACTPACK_HOSTILE
#define OPTIONAL ACTPACK_HOSTILE
#define OUT ACTPACK_HOSTILE
#define STRICT ACTPACK_HOSTILE
#define THIS ACTPACK_HOSTILE
#define TRUE ACTPACK_HOSTILE
#define VOID ACTPACK_HOSTILE
#define cdecl ACTPACK_HOSTILE
#define far ACTPACK_HOSTILE
#define hyper ACTPACK_HOSTILE
#define interface ACTPACK_HOSTILE
#define near ACTPACK_HOSTILE
#define pascal ACTPACK_HOSTILE
#define small ACTPACK_HOSTILE
// X11:
#define Above ACTPACK_HOSTILE
#define Always ACTPACK_HOSTILE
#define Below ACTPACK_HOSTILE
#define Bool ACTPACK_HOSTILE
#define Complex ACTPACK_HOSTILE
#define None ACTPACK_HOSTILE
#define Opposite ACTPACK_HOSTILE
#define Status ACTPACK_HOSTILE
#define Success ACTPACK_HOSTILE
#define Unsorted ACTPACK_HOSTILE
// <termios.h>, Arduino.h, <complex.h>, the compiler's own in GNU mode, Qt, ffmpeg:
#define B0 ACTPACK_HOSTILE
#define B1 ACTPACK_HOSTILE
#define DEFAULT ACTPACK_HOSTILE
#define ECHO ACTPACK_HOSTILE
#define HIGH ACTPACK_HOSTILE
#define I ACTPACK_HOSTILE
#define INPUT ACTPACK_HOSTILE
#define LOW ACTPACK_HOSTILE
#define OUTPUT ACTPACK_HOSTILE
#define PI ACTPACK_HOSTILE
#define always_inline ACTPACK_HOSTILE
#define complex ACTPACK_HOSTILE
#define emit ACTPACK_HOSTILE
#define foreach ACTPACK_HOSTILE
#define noinline ACTPACK_HOSTILE
#define signals ACTPACK_HOSTILE
#define slots ACTPACK_HOSTILE
#undef linux
#define linux ACTPACK_HOSTILE
#undef unix
#define unix ACTPACK_HOSTILE
