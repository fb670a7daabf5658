# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# For scripts that check many things and go on after a failure: step TITLE COMMAND... runs one, and
# $failures counts those that failed. To be sourced.

failures=0
step() {
  title=$1
  shift
  echo "== $title"
  if "$@"; then
    echo "-- $title: passed"
  else
    echo "-- $title: FAILED ($?)"
    failures=$((failures + 1))
  fi
}
