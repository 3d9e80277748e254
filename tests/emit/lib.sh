# What the scripts around --emit-c share. BIN: where the commands are.
BIN=${BIN:-bin}
DATA=tests/data/models

# The inputs in golden.npz as .npy files in a folder.
inputs() { # MODEL FOLDER
    mkdir -p "$2"
    unzip -q -o -j "$DATA/$(dirname "$1")/golden.npz" 'input/*' -d "$2"
}

# Options that give the inputs their shapes: --input-shape x:8,16 ...
shapes() { # FOLDER
    for f in "$1"/*.npy; do
        dims=$(head -c 128 "$f" | tr -d '\0' | LC_ALL=C sed -n "s/.*'shape': (\([0-9, ]*\)).*/\1/p" | tr -d ' ' | sed 's/,$//')
        printf ' --input-shape %s:%s' "$(basename "$f" .npy)" "$dims"
    done
}

# Arguments of ./model: x=/path/x.npy ...
arguments() { # FOLDER
    for f in "$1"/*.npy; do
        printf ' %s=%s' "$(basename "$f" .npy)" "$(cd "$1" && pwd)/$(basename "$f")"
    done
}

# The step graph of a model in FOLDER, as C in FOLDER/c.
emit() { # MODEL FOLDER OPTIONS
    model=$1 folder=$2
    shift 2
    inputs "$model" "$folder"
    "$BIN/mtbal-rewrite" "$DATA/$model" "$folder/step.onnx" -q --balance equal --emit-c "$folder/c" \
        $(shapes "$folder") "$@"
}

sources() { # FOLDER
    (cd "$1" && ls *.c runtime/*.c runtime/kernels/*.c)
}
