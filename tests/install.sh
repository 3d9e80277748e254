# What comparisons with ONNX Runtime need, for scripts to source: each function installs what is missing, or returns 1.
VENV=.venv
[ "$(id -u)" = 0 ] && SUDO= || SUDO=sudo

debian() { # PACKAGES
    echo "installing $*"
    { $SUDO apt-get update -qq && $SUDO apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null 2>&1
}

# $VENV/bin/python with onnxruntime, onnx and numpy
need_python() {
    "$VENV/bin/python" -c 'import onnxruntime, onnx, numpy' 2>/dev/null && return
    python3 -c 'import venv, ensurepip' 2>/dev/null || debian python3 python3-venv || return 1
    echo "installing onnxruntime, onnx and numpy into $VENV"
    python3 -m venv "$VENV" &&
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check onnxruntime onnx numpy 2>/dev/null
}

need_npm() {
    command -v npm >/dev/null || debian nodejs npm
}

# examples/node_modules: what examples/package.json names, and what drives a browser. Without the packages' own scripts:
# that of onnxruntime-node fetches CUDA, which nothing here uses.
need_packages() {
    [ -d examples/node_modules/playwright-core ] && return
    need_npm || return 1
    echo "installing onnxruntime-node, onnxruntime-web and playwright-core into examples/node_modules"
    npm install --silent --no-audit --no-fund --no-save --no-package-lock --ignore-scripts --prefix examples \
        playwright-core >/dev/null 2>&1
}

need_chromium() {
    command -v chromium >/dev/null || debian chromium
}

# build/examples/ort/include and lib, for the C API. The library is the one in the Python package. The header is not: it is
# in Debian's libonnxruntime-dev, from Debian 13 on; an older system fetches that package, and unpacks it without installing.
need_header() {
    ort=build/examples/ort
    mkdir -p $ort/lib $ort/apt/lists/partial $ort/apt/archives/partial
    library=$(echo "$VENV"/lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so.*)
    [ -e "$library" ] || return 1
    ln -sf "$PWD/$library" $ort/lib/libonnxruntime.so
    ln -sf "$PWD/$library" $ort/lib/libonnxruntime.so.1
    [ -e $ort/include/onnxruntime_c_api.h ] && return
    archive=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' | head -1)
    [ "$archive" ] || return 1
    echo "fetching the header of the C API from Debian's libonnxruntime-dev"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive trixie main" >$ort/apt/list
    options="-qq -o Dir::Etc::SourceList=$PWD/$ort/apt/list -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists=$PWD/$ort/apt/lists -o Dir::Cache::Archives=$PWD/$ort/apt/archives \
        -o Dir::Cache::PkgCache= -o Dir::Cache::SrcPkgCache="
    (cd $ort/apt && apt-get $options update && apt-get $options download libonnxruntime-dev &&
        dpkg -x libonnxruntime-dev_*.deb .) >/dev/null 2>&1 || return 1
    cp -r $ort/apt/usr/include/onnxruntime $ort/include
    rm -r $ort/apt
}
