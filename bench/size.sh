#!/bin/sh
# size.sh: how large the library is, stripped, without protobuf: the runtime alone, and with what it takes to read a model
# file and execute it. Linked as shared libraries, from objects of their own (position-independent).
set -eu
CC=${CC:-cc}
TOP=build/bench/size
FOLDERS="graph graph/ops onnxio lower lower/ops" # what stands between a model file and the kernels
LIMIT=200
status=0
mkdir -p $TOP

build() { # FOLDER FLAGS: all objects, and onnx.pb-c's
    ${MAKE:-make} -s --no-print-directory BUILD="$TOP/$1" CC="$CC" CFLAGS="$2" MODE="-fPIC" "$TOP/$1/libmtbal.a" >&2
}

objects() { # FOLDER...: under the current build
    for folder in "$@"; do echo "$build/$folder"/*.o; done
}

link() { # NAME LIMIT OBJECTS...: links, strips and shows
    name=$1 limit=$2
    shift 2
    $CC -shared -Wl,--gc-sections -Wl,-z,noseparate-code -Wl,--version-script=$TOP/exported -o $TOP/one.so "$@" -lprotobuf-c -lz -lm -lpthread
    strip $TOP/one.so
    size=$(stat -c %s $TOP/one.so)
    loaded=$(size $TOP/one.so | awk 'NR == 2 { print $1 + $2 }')
    late=
    [ "$limit" = - ] || [ "$size" -lt $((limit * 1000)) ] || late=MISSED status=1
    printf '  %-58s %8d bytes, %d of code and data' "$name" "$size" "$loaded"
    [ "$limit" = - ] && echo || echo "  (limit ${limit}000) $late"
}

echo "size, stripped, without protobuf-c, zlib and libm"
build usual "-O2"
build=$TOP/usual
echo '{ global: *; };' >$TOP/exported
link "the runtime" $LIMIT $(objects runtime runtime/kernels)
echo '{ global: mtbal_onnx_read; mtbal_model_free; mtbal_lower; mtbal_plan_*; mtbal_instance_*; local: *; };' >$TOP/exported
link "all that executes a model file (with onnxio, graph, lower)" - $(objects runtime runtime/kernels $FOLDERS gen/onnx)
kernels=$(objects runtime runtime/kernels)
build small "-Os -ffunction-sections -fdata-sections"
build=$TOP/small
link "the same, -Os but for the kernels, unused functions left out" - $kernels $(objects $FOLDERS gen/onnx)
exit $status
