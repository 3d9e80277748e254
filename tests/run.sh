#!/bin/sh
# Runs the test programs given as arguments, one after another; ends with one line of counts.
passed=0 failed=0
for program in "$@"; do
    echo "== $(basename "$program")"
    if "$program"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "test programs: $passed passed, $failed failed"
[ "$failed" = 0 ]
