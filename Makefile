# make            builds the three commands into bin/
# make demo       rewrites, calibrates and trains a real model, and shows what came out
# make test       runs all tests
# make strict     builds with gcc and clang, every warning an error; checks the formatting
# make sanitize   runs the tests under AddressSanitizer and UBSan
# make valgrind   runs the commands and short tests under valgrind's memcheck
# make fuzz       gives mutated files to the readers, FUZZ_SECONDS=30 each (clang's libFuzzer)
# make test-ort   compares with ONNX Runtime (installs it into .venv), and runs test-examples
# make conformance   runs ONNX's own node tests, in float and in double; or those in DATA=FOLDER
# make test-examples   training loops in stock ONNX Runtime: Python, Node.js, C, a page in Chromium
# make web        the page: a folder to serve, build/web
# make test-torch compares calibrations with an independent PyTorch program (installs torch into .venv-torch)
# make test-opinfo compares gradients of single operators with PyTorch's (ARGS="--exporter dynamo --opset 23")
# make test-networks compares whole networks from PyTorch's exporters (the same)
# make bench      measures speed and size beside their limits, and ONNX Runtime and PyTorch (installs these)
# make bench-scale    how time and memory grow with the size of a model; fails where faster than the model
# make bench-flops    counts what a step multiplies
# make bench-balance   trains the problems of models/ with every balancing; SEEDS=5
# make test-emit  compiles emitted C with several compilers and checkers, and compares
# make test-cross the same for 64-bit and 32-bit ARM, under qemu
# make bench-emit measures emitted C
# Variables: CC, CFLAGS, V=1

CC      ?= gcc
CFLAGS  ?= -O2 -g
BUILD   ?= build
BIN     ?= bin
WARN    := -Wall -Wextra -Wpedantic
MODE    :=# extra flags of a variant: sanitizers, -Werror
CPP     := -I. -I$(BUILD)/gen -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE
KERNEL  :=
ALL_C    = $(CPP) -std=c11 $(WARN) $(CFLAGS) $(KERNEL) $(MODE)
LIBS    := -lprotobuf-c -lz -lm -lpthread
Q       := $(if $(V),,@)

FOLDERS := graph graph/ops onnxio passes passes/gradients passes/balance passes/ort runtime runtime/kernels lower lower/ops lower/c train
SOURCES := $(foreach f,$(FOLDERS),$(wildcard $(f)/*.c))
CLI     := $(filter-out cli/mtbal-%.c,$(wildcard cli/*.c))
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o)
CLI_O   := $(CLI:%.c=$(BUILD)/%.o)
TOOLS   := $(patsubst cli/%.c,$(BIN)/%,$(wildcard cli/mtbal-*.c))
TESTS   := $(wildcard tests/test_*.c)
TEST_O  := $(patsubst %.c,$(BUILD)/%.o,$(filter-out tests/test_%.c,$(wildcard tests/*.c)))
TEST_X  := $(TESTS:tests/%.c=$(BUILD)/tests/%)
LIB     := $(BUILD)/libmtbal.a
PROTO   ?= /usr/include/onnx/onnx.proto

.PHONY: all clean deps demo web test test-run strict sanitize valgrind fuzz conformance test-ort test-examples \
        test-torch test-opinfo test-networks bench bench-flops bench-scale bench-balance format test-emit test-cross \
        bench-emit
all: $(TOOLS)

# ---------------------------------------------------------------- what a fresh Debian machine needs
PACKAGES := gcc libc6-dev make pkg-config libprotobuf-c-dev protobuf-c-compiler protobuf-compiler \
            libonnx-dev libonnx-testdata check zlib1g-dev
# $(call install,PACKAGES): those of them that are missing, from Debian, as root only. Anybody else is told what to do.
install   = @missing=; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
            [ -z "$$missing" ] || if [ `id -u` = 0 ]; then echo "installing$$missing"; apt-get update -qq && \
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
            else echo "These Debian packages are missing:$$missing"; \
            echo "Install them: sudo make deps, or: sudo apt-get install$$missing"; exit 1; fi
deps:
	$(call install,$(PACKAGES))

# ---------------------------------------------------------------- the two commands, and the others
demo: deps
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh models/demo.sh

test: deps
	@$(MAKE) --no-print-directory all test-run

test-run: $(TEST_X)
	@sh tests/run.sh $(TEST_X)

# The same suite with memory and undefined-behaviour checks.
sanitize: deps
	@$(MAKE) --no-print-directory BUILD=build/asan BIN=build/asan/bin CFLAGS="-O1 -g -fno-omit-frame-pointer" \
	    MODE="-fsanitize=address,undefined -fno-sanitize-recover=undefined" all test-run

# The commands end to end, and tests that do not run for minutes there.
VALGRIND   := valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite
GRIND_TEST := functions flops build graph npz text
valgrind: deps
	$(call install,valgrind)
	@$(MAKE) --no-print-directory all $(GRIND_TEST:%=$(BUILD)/tests/test_%)
	@BIN=$(BIN) VALGRIND="$(VALGRIND)" sh tests/valgrind.sh $(GRIND_TEST:%=$(BUILD)/tests/test_%)

# Mutated files to each reader, under both sanitizers.
FUZZ := $(patsubst %.c,build/fuzz/%,$(wildcard tests/fuzz/*.c))
fuzz: deps
	$(call install,clang)
	$(call install,libclang-rt-$$(clang -dumpversion | cut -d. -f1)-dev)
	@$(MAKE) --no-print-directory BUILD=build/fuzz CC=clang CFLAGS="-O1 -g" \
	    MODE="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined" $(FUZZ)
	@sh tests/fuzz/run.sh

# gcc and clang, every warning an error, the formatting checked.
strict: deps
	$(call install,clang clang-format)
	@clang-format --dry-run -Werror $(foreach f,$(FOLDERS) lower/c/templates cli tests tests/fuzz bench examples/c,$(wildcard $(f)/*.c $(f)/*.h))
	@$(MAKE) --no-print-directory BUILD=build/gcc BIN=build/gcc/bin CC=gcc MODE=-Werror all test-build
	@$(MAKE) --no-print-directory BUILD=build/clang BIN=build/clang/bin CC=clang MODE=-Werror all test-build
	@echo "strict: gcc and clang, no warnings; formatting as in .clang-format"

.PHONY: test-build
test-build: $(TEST_X)

test-ort: deps
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh tests/ort/run.sh
	@BIN=$(BIN) sh tests/examples/run.sh

test-examples: deps
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh tests/examples/run.sh

web: deps
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh examples/web/build.sh build/web

test-torch: deps
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh tests/torch/run.sh calibrate.py

test-networks: deps
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh tests/torch/run.sh networks.py

# Debian's tests in float and in double; each list names the tests that do not pass, and why. DATA=FOLDER: others, unlisted.
NODES       := /usr/share/libonnx-testdata/data/node
CONFORMANCE := $(BUILD)/tests/conformance/conformance
conformance: deps
	@$(MAKE) --no-print-directory $(CONFORMANCE)
ifdef DATA
	@$(CONFORMANCE) $(DATA)
else
	@$(CONFORMANCE) tests/data/onnx_training
	@$(CONFORMANCE) -e tests/conformance/float.txt $(NODES)
	@$(CONFORMANCE) -d -e tests/conformance/double.txt $(NODES)
endif

ARGS     ?=
test-opinfo: deps
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh tests/torch/opinfo.sh $(ARGS)

# Emitted C: every dialect and checker; other processors.
test-emit: deps
	$(call install,clang g++ valgrind unzip libc6-dev-i386 lib32gcc-12-dev)
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh tests/emit/portable.sh

test-cross: deps
	$(call install,gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user unzip)
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh tests/emit/cross.sh

bench-emit: deps
	$(call install,unzip)
	@$(MAKE) --no-print-directory all
	@BIN=$(BIN) sh bench/emit.sh

bench: deps
	@$(MAKE) --no-print-directory all $(BUILD)/bench/bench_mlp $(BUILD)/bench/bench_step $(BUILD)/bench/bench_rewrite
	@BENCH=$(BUILD) BIN=$(BIN) CC="$(CC)" MAKE="$(MAKE)" sh bench/run.sh

CASES ?=
bench-scale: deps
	@$(MAKE) --no-print-directory all $(BUILD)/bench/bench_scale
	@mkdir -p $(BUILD)/bench/scale
	@$(BUILD)/bench/bench_scale $(BIN) $(BUILD)/bench/scale $(CASES)

bench-flops: deps
	@$(MAKE) --no-print-directory $(BUILD)/bench/bench_flops
	@$(BUILD)/bench/bench_flops

SEEDS    ?= 5
PROBLEMS ?=
bench-balance: deps
	@$(MAKE) --no-print-directory $(BUILD)/bench/bench_balance
	@mkdir -p $(BUILD)/bench/balance
	@$(BUILD)/bench/bench_balance $(BUILD)/bench/balance $(SEEDS) $(PROBLEMS)

format:
	clang-format -i $(foreach f,$(FOLDERS) lower/c/templates cli tests tests/fuzz bench examples/c,$(wildcard $(f)/*.c $(f)/*.h))
.SECONDARY:

$(BUILD)/gen/onnx/onnx.pb-c.c: $(PROTO)
	@mkdir -p $(BUILD)/gen/onnx
	$(Q)protoc-c --proto_path=$(dir $(PROTO)) --c_out=$(BUILD)/gen/onnx $(PROTO)
$(BUILD)/gen/%.o: $(BUILD)/gen/%.c
	$(Q)$(CC) $(CPP) $(CFLAGS) $(MODE) -c $< -o $@
$(filter $(BUILD)/onnxio/%,$(OBJECTS)) $(TEST_O) $(BUILD)/bench/bench_rewrite.o: $(BUILD)/gen/onnx/onnx.pb-c.c

# What --emit-c ships lies in the command itself, as text.
SHIPPED := $(sort $(wildcard runtime/*.[ch] runtime/*.def runtime/kernels/*.[ch] lower/c/templates/*))
$(BUILD)/gen/sources.c: $(SHIPPED)
	@mkdir -p $(@D)
	$(Q){ echo '#include "lower/c/c.h"'; echo 'const c_source c_sources[] = {'; \
	for f in $(SHIPPED); do echo "{\"$$f\","; sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$$/\\n"/' $$f; echo '},'; done; \
	echo '{NULL, NULL}};'; } > $@

# Kernels: optimised also in a debugging build; no -ffast-math, so that results are IEEE's. Fused multiply-add only where a
# kernel asks for it: the same bits from every compiler. Nothing unwinds through them: no tables for that.
IEEE := -fno-math-errno -fno-trapping-math -ffp-contract=off -fno-asynchronous-unwind-tables
$(BUILD)/runtime/%.o: KERNEL := -O2 -ftree-vectorize $(IEEE)
# Where the time goes. Elsewhere the copies of loops that -O3 makes are 60 KB, and hardly faster.
$(addprefix $(BUILD)/runtime/,gemm.o gemm_micro.o kernels/conv.o kernels/gram.o): KERNEL := -O3 $(IEEE)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_C) -MMD -MP -c $< -o $@

$(LIB): $(OBJECTS) $(BUILD)/gen/onnx/onnx.pb-c.o $(BUILD)/gen/sources.o
	$(Q)rm -f $@ && ar rcs $@ $^

$(BIN)/%: $(BUILD)/cli/%.o $(CLI_O) $(LIB)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_C) -o $@ $^ $(LIBS)

$(BUILD)/bench/bench_flops: $(BUILD)/tests/flops.o
$(BUILD)/bench/bench_scale: $(BUILD)/bench/scale_models.o
$(BUILD)/bench/bench_%: $(BUILD)/bench/bench_%.o $(BUILD)/bench/bench.o $(LIB)
	$(Q)$(CC) $(ALL_C) -o $@ $(filter %.o,$^) $(LIB) $(LIBS)

$(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(LIB)
	$(Q)$(CC) $(ALL_C) -fsanitize=fuzzer -o $@ $< $(LIB) $(LIBS)

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_O) $(CLI_O) $(LIB)
	$(Q)$(CC) $(ALL_C) -o $@ $^ $(LIBS) $(shell pkg-config --libs check)

clean:
	rm -rf build bin

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
