# ohtrain prepare series as users run it: what files in the wild have, the same bytes on any number of ranks, exit codes and
# messages, nothing left behind.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
bad=0
fail() { echo "FAILED: $*"; bad=1; }
prepare() { timeout 120 "$OHTRAIN" prepare series "$@"; }

# table ROWS: an hourly table of three series
table() {
    awk -v n="$1" 'BEGIN { print "date,a,b,c"
        for (t = 0; t < n; t++) printf "2016-07-%02d %02d:00:00,%.6f,%.6f,%d\n", 1 + t / 24, t % 24, sin(.3 * t), 5 + cos(.11 * t), t % 7 == 0 ? 3 : -1 }'
}
table 60 >good.csv
prepare good.csv --split 30,12,14 -o one.h5 >log 2>&1 || fail "exit $?: $(cat log)"
grep -q '60 rows of 3 series; 30 for training, 12 for validation, 14 for the test' log || fail "no counts in: $(cat log)"
for n in 2 3; do
    timeout 120 mpirun -np $n --oversubscribe --bind-to none "$OHTRAIN" prepare series good.csv --split 30,12,14 -o "ranks$n.h5" -q || fail "$n ranks: exit $?"
    cmp one.h5 "ranks$n.h5" || fail "$n ranks give other bytes"
done
prepare good.csv --split 0.5,0.25,0.25 -o ratio.h5 >log 2>&1 || fail "ratios: $(cat log)"
grep -q '30 for training, 15 for validation, 15 for the test' log || fail "ratios: $(cat log)"
h5dump -d /columns one.h5 | grep -q '"a", "b", "c"' || fail "columns: $(h5dump -d /columns one.h5)"

# The same table as other programs write it: the same numbers, another source.
{ printf '\xef\xbb\xbf'; sed -e 's/\([^,]*\),\([^,]*\)/"\1","\2"/' -e 's/$/\r/' good.csv; echo; } >windows.csv
prepare windows.csv --split 30,12,14 -o windows.h5 -q >log 2>&1 || fail "quotes, CRLF, BOM: $(cat log)"
for name in /values /timestamps /columns /mean /std; do h5diff one.h5 windows.h5 $name || fail "quotes, CRLF, BOM: $name differs"; done
[ ! -s log ] || fail "quotes, CRLF, BOM: says $(cat log)"

# Warnings: steps of different length; a column that is constant in the training rows.
sed '20d' good.csv >gap.csv
prepare gap.csv --split 30,12,14 -o gap.h5 >log 2>&1 || fail "gap: $(cat log)"
grep -q 'warning: .*1 of 58 steps in time differ' log || fail "gap: $(cat log)"
awk -F, 'NR > 1 && NR < 40 { $3 = 4 } { print $1 "," $2 "," $3 "," $4 }' good.csv >constant.csv
prepare constant.csv --split 30,12,14 -o constant.h5 >log 2>&1 || fail "constant: $(cat log)"
grep -q 'warning: column b is constant in the training rows' log || fail "constant: $(cat log)"

# expect CODE TEXT ARGUMENTS: exit code and message; one error, no file left.
expect() {
    local code=$1 text=$2 got
    shift 2
    rm -f out.h5
    prepare "$@" >log 2>&1
    got=$?
    [ $got = "$code" ] || fail "prepare series $*: exit $got, expected $code: $(cat log)"
    grep -qF -- "$text" log || fail "prepare series $*: no \"$text\" in: $(cat log)"
    [ "$(grep -c '^ohtrain: .* error' log)" = 1 ] || fail "prepare series $*: not one error: $(cat log)"
    [ -z "$(ls out.h5* 2>/dev/null)" ] || fail "prepare series $*: left $(ls out.h5*)"
}
# damaged SED_SCRIPT TEXT: the good table changed
damaged() {
    sed "$1" good.csv >bad.csv
    expect 3 "$2" bad.csv --split 30,12,14 -o out.h5
}
damaged '5s/,[^,]*,/,,/' 'line 5, column a: found ""'
damaged '5s/,[^,]*$/,NA/' 'line 5, column c: found "NA"'
damaged '5s/,[^,]*$/,1e400/' 'line 5, column c'
damaged '5s/,[^,]*$//' 'line 5 has fewer'
damaged '5s/$/,7/' 'line 5 has more'
damaged '5s/2016-07-01 03/2016-06-30 03/' 'line 5: the date 2016-06-30 03:00:00 does not come after'
damaged '5{p}' 'does not come after'
damaged '5s/^[^,]*/soon/' '"soon" is no date'
damaged '5s/^[^ ]*/2016-06-31/' '"2016-06-31 03:00:00" is no date'
damaged '5s/$/\x00 /' 'line 5 holds a byte 0'
damaged '2,$d' 'has a header, but no rows'
damaged 's/,.*//' 'expected a date column and at least one column'
damaged '1,$d' 'is empty'
expect 2 'etth needs 8640 + 2880 + 2880 rows, each at least 1; the file has 60' good.csv --split etth -o out.h5
expect 2 '--split: found "etth2"' good.csv --split etth2 -o out.h5
expect 2 'add up to 1.1' good.csv --split 0.7,0.2,0.2 -o out.h5
expect 2 'needs 58 + 1 + 2 rows' good.csv --split 58,1,2 -o out.h5
expect 6 'nowhere.csv' nowhere.csv --split etth -o out.h5
expect 2 'no input' --split etth -o out.h5
expect 2 '--split is missing' good.csv -o out.h5
expect 2 '-o FILE.h5 is missing' good.csv --split etth
expect 2 'nearest: --split' good.csv --splt etth -o out.h5
expect 2 'expected one CSV file' good.csv gap.csv --split etth -o out.h5
expect 2 'is given twice' good.csv --split etth --split wth -o out.h5
cp good.csv kept.csv && ln kept.csv linked.h5
expect 2 'this is the input' kept.csv --split 30,12,14 -o kept.csv
expect 2 'this is the input' kept.csv --split 30,12,14 -o linked.h5
cmp good.csv kept.csv || fail "the input is not what it was"
expect 6 'no/such/folder' good.csv --split 30,12,14 -o no/such/folder/out.h5
timeout 120 mpirun -np 3 --oversubscribe --bind-to none "$OHTRAIN" prepare series bad.csv --split 30,12,14 -o out.h5 >log 2>&1
[ $? = 3 ] || fail "3 ranks, damaged: $(cat log)"
[ "$(grep -c '^ohtrain: .* error' log)" = 1 ] || fail "3 ranks, not one error: $(cat log)"


# A stop request ends it early, with nothing left behind.
awk 'BEGIN { print "date,a,b,c,d"; for (t = 0; t < 3000000; t++)
    printf "%04d-01-%02d %02d:%02d:%02d,1,2,3,%d\n", 1 + t / 2592000 , 1 + t / 86400 % 30, t / 3600 % 24, t / 60 % 60, t % 60, t % 7 }' >long.csv
timeout 120 "$OHTRAIN" prepare series long.csv --split 0.5,0.25,0.25 -o out.h5 >log 2>&1 &
sleep 1
kill -TERM $!
wait $!
[ $? = 75 ] || fail "a stop request: exit code is not 75: $(cat log)"
[ -z "$(ls out.h5* 2>/dev/null)" ] || fail "a stop request: left $(ls out.h5*)"
exit $bad
