#!/bin/sh
# Adds an elementwise operator, a compound one, a balancing method, an optimizer and a loss to a copy of the sources,
# counts the places that each of them takes (a spot in a file; a row counts with its prototype), builds the copy and runs what was added: the gradients of the operators
# against finite differences, the others in a training run.
# usage: extend.sh SOURCES
set -eu
sources=$(cd "$1" && pwd)
copy=$(mktemp -d "${TMPDIR:-/tmp}/mtbal-extend-XXXXXX")
trap 'rm -rf "$copy"' EXIT INT TERM
for f in Makefile graph onnxio passes runtime lower train cli; do
    cp -R "$sources/$f" "$copy/$f"
done
mkdir "$copy/tests"
cp "$sources"/tests/*.c "$sources"/tests/*.h "$copy/tests/" 2>/dev/null || true
cd "$copy"

places=0
# place FILE LINE: standard input goes in front of the first line of FILE that begins with LINE; a file of its own
# without LINE
place() {
    places=$((places + 1))
    if [ $# = 1 ]; then
        cat >"$1"
        return
    fi
    cat >place.text
    awk -v line="$2" '!done && index($0, line) == 1 { while ((getline text < "place.text") > 0) print text; done = 1 }
        { print } END { exit !done }' "$1" >place.new || { echo "$1 has no line that begins with: $2"; exit 1; }
    mv place.new "$1"
}
# took WHAT MOST: the places since the last call
took() {
    echo "$1: $places places"
    [ "$places" -le "$2" ] || { echo "more than $2"; exit 1; }
    places=0
}

place graph/ops.def 'OP(ceil,' <<'X'
OP(cbrt, "Cbrt", "", same, cbrt, unary(cbrt), 0, "1", "A", 1, 1, "")
X
place passes/gradients/elementwise.c 'RULE(reciprocal)' <<'X'
RULE(cbrt)
{
    OPEN;
    CLOSE(DIV(dy, MUL(CONST(3), MUL(y, y))));
}
X
place runtime/elementwise.def 'UNARY(ceil,' <<'X'
UNARY(cbrt, REAL, M(cbrt)(x), 0)
X
took "an elementwise operator" 3

place graph/ops.def 'OP(ceil,' <<'X'
OP(cube_sum, "CubeSum", "", cube_sum, decomposed, decomposed, 0, "1", "A A", 1, 1, "")
X
place graph/ops/elementwise.c '/* One operand, same type' <<'X'
mtbal_status mtbal_shape_cube_sum(mtbal_infer *s)
{
    return shape_set_type(s, 0, shape_type(s, 0));
}

X
place graph/compound.c '/* ------------------------------------------------------------------ the table' <<'X'
BODY(cube_sum)
{
    mtbal_builder *b = c->b;
    mtbal_value *x = c->x[0];
    c->y[0] = ADD(MUL(x, MUL(x, x)), UNARY("Cbrt", c->x[1]));
    return NULL;
}

X
place tests/test_gradients.c '    {17, "a[2,3]", "y = Cos (a)"}' <<'X'
    {17, "a[2,3] b[2,3]", "y = CubeSum (a, b)"},
X
took "a compound operator" 4

place passes/balance/halves.c <<'X'
#include "passes/internal.h"

mtbal_status mtbal_balance_halves(const mtbal_context *c, double *weights)
{
    for (int i = 0; i < c->ntasks; i++)
        weights[i] = 0.5;
    return MTBAL_OK;
}
X
place passes/balance/table.c 'const mtbal_method mtbal_methods' <<'X'
mtbal_status mtbal_balance_halves(const mtbal_context *c, double *weights);
#define HALVES {.name = "halves", .what = "all 0.5", .source = "-", .fixed = mtbal_balance_halves},
X
sed 's/^const mtbal_method mtbal_methods\[\] = {$/&\
    HALVES/' passes/balance/table.c >place.new
mv place.new passes/balance/table.c
took "a balancing method" 2

place passes/losses.c 'static const loss_kind kinds' <<'X'
static mtbal_value *quartic(mtbal_builder *b, const loss_spec *l)
{
    mtbal_value *d = mtbal_emit(b, "Sub", l->pred, l->label), *s = mtbal_emit(b, "Mul", d, d);
    return mean(b, mtbal_emit(b, "Mul", s, s));
}

X
place passes/losses.c '    {"mse",' <<'X'
    {"quartic", 0, -1, false, quartic},
X
took "a loss" 2

place passes/optimizer.c 'static const char sgd_update' <<'X'
static const char sign_update[] = "SignUpdate (p, g, lr) => (next) {\n"
                                  "  l = CastLike (lr, p)\n"
                                  "  s = Sign (g)\n"
                                  "  d = Mul (l, s)\n"
                                  "  next = Sub (p, d)\n"
                                  "}";
X
place passes/optimizer.c '    {"sgd",' <<'X'
    {"sign", "SignUpdate", sign_update, 0, false, {NULL, NULL}, 0.01},
X
took "an optimizer" 3

unset MAKEFLAGS MFLAGS # of the make that runs the tests
make -s -j"${EXTEND_JOBS:-2}" CFLAGS=-O0 MODE= BUILD=build BIN=bin all build/tests/test_gradients >build.log 2>&1 || {
    tail -n 20 build.log
    exit 1
}
build/tests/test_gradients >gradients.log || { tail -n 20 gradients.log; exit 1; }
data=$sources/tests/data
bin/mtbal-rewrite -q "$data/models/mlp_cls_reg/heads.onnx" step.onnx --balance halves --optimizer sign \
    --loss cls=cross-entropy:logits,label --loss reg=quartic:pred,target
bin/mtbal-rewrite -q "$sources/models/digits2.onnx" digits.onnx --balance halves --optimizer sign
bin/mtbal-run -q digits.onnx --data "$sources/models/digits2.train.npz" --epochs 1
bin/mtbal-rewrite --list-operators | grep -q '^| Cbrt | yes | yes |$'
bin/mtbal-rewrite -h | grep -q quartic
echo "built, differentiated, rewritten and run with all five"
