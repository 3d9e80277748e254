# make            builds the three commands into bin/
# make demo       rewrites, calibrates and trains a real model, and shows what came out
# make test       runs all tests
# make strict     builds with gcc and clang, every warning an error; checks the formatting
# make sanitize   runs the tests under AddressSanitizer and UBSan
# make test-ort   compares with ONNX Runtime (installs it into .venv)
# make bench      measures
# Variables: CC, CFLAGS, V=1

CC      ?= gcc
CFLAGS  ?= -O2 -g
BUILD   ?= build
BIN     ?= bin
WARN    := -Wall -Wextra -Wpedantic
MODE    :=# extra flags of a variant: sanitizers, -Werror
CPP     := -I. -I$(BUILD)/gen -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE
ALL_C   := $(CPP) -std=c11 $(WARN) $(CFLAGS) $(MODE)
LIBS    := -lprotobuf-c -lz -lm -lpthread
Q       := $(if $(V),,@)

FOLDERS := graph graph/ops onnxio passes passes/gradients passes/balance runtime runtime/kernels lower lower/ops train
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

.PHONY: all clean
all: $(TOOLS)
.SECONDARY:

$(BUILD)/gen/onnx/onnx.pb-c.c: $(PROTO)
	@mkdir -p $(BUILD)/gen/onnx
	$(Q)protoc-c --proto_path=$(dir $(PROTO)) --c_out=$(BUILD)/gen/onnx $(PROTO)
$(BUILD)/gen/%.o: $(BUILD)/gen/%.c
	$(Q)$(CC) $(CPP) $(CFLAGS) $(MODE) -c $< -o $@
$(BUILD)/onnxio/%.o: $(BUILD)/gen/onnx/onnx.pb-c.c

# Kernels: optimised also in a debugging build; no -ffast-math, so that results are IEEE's. Fused multiply-add only where a
# kernel asks for it: the same bits from every compiler.
$(BUILD)/runtime/%.o: CFLAGS += -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_C) -MMD -MP -c $< -o $@

$(LIB): $(OBJECTS) $(BUILD)/gen/onnx/onnx.pb-c.o
	$(Q)rm -f $@ && ar rcs $@ $^

$(BIN)/%: $(BUILD)/cli/%.o $(CLI_O) $(LIB)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_C) -o $@ $^ $(LIBS)

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_O) $(CLI_O) $(LIB)
	$(Q)$(CC) $(ALL_C) -o $@ $^ $(LIBS) $(shell pkg-config --libs check)

clean:
	rm -rf build bin

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
