#!/bin/sh
# make test-cross: emitted C for 64-bit and 32-bit ARM, run by qemu: the same losses to 1e-5.
set -eu
. tests/emit/lib.sh
TOP=build/cross
WARN="-std=c11 -Wall -Wextra -Wpedantic -Werror -ffp-contract=off -I. -O2"
found=0
for model in mlp_cls_reg/model.op17.onnx cnn_nyu/model.op17.onnx transformer_glue/model.op17.onnx; do
    dir=$TOP/$(dirname $model)
    rm -rf "$dir"
    emit $model "$dir"
    steps="$(arguments "$dir") --steps 10 --set lr=0.02"
    files=$(sources "$dir/c")
    cd "$dir/c"
    gcc $WARN -o ../here $files -lm
    ../here $steps >../plain
    for target in aarch64-linux-gnu:qemu-aarch64 arm-linux-gnueabihf:qemu-arm; do
        tools=${target%%:*} qemu=${target##*:}
        if ! command -v $tools-gcc >/dev/null || ! command -v $qemu >/dev/null; then
            echo "$model: $tools: no compiler or no $qemu here; nothing was compared"
            continue
        fi
        found=$((found + 1))
        $tools-gcc $WARN -static -o ../there $files -lm
        $qemu ../there $steps >../printed
        # every number of every line, those before the names apart
        paste -d'\n' ../plain ../printed | awk -v name="$model: $tools" '
            NR % 2 { n = split($0, a, " "); next }
            { m = split($0, b, " ")
              if (m != n) { print name ": other lines"; exit 1 }
              for (i = 4; i <= n; i += 2) {
                  d = a[i] - b[i]; d = d < 0 ? -d : d; s = a[i] < 0 ? -a[i] : a[i]
                  r = s > 0 ? d / s : d
                  if (a[i - 1] !~ /grad_norm|weight/ && r > worst) worst = r
                  if (r > most) most = r
              } }
            END { printf "%s: 10 steps, losses differ by at most %.1e, norms by %.1e\n", name, worst, most
                  exit !(worst <= 1e-5 && NR == 20) }' || exit 1
    done
    cd - >/dev/null
done
[ $found -gt 0 ] || { echo "test-cross: neither compiler is here"; exit 1; }
