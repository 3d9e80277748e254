/* tests/test_gradients.c: every gradient rule against central differences in double precision along
 * random directions. A rule of the operator table that no case names gets one of its own, with
 * operands a[2,3] and b[3]: enough for operators that work element by element, and what does not
 * work with these fails the test.
 *
 * A case is operands and ONNX text that makes y (and z) of them; the loss is the sum of sin(y).
 * Operands are trained; their elements lie between 0.3 and 1.3 in size, away from kinks at 0, and
 * are all different, so that no two tie. */
#include "lower/lower.h"
#include "passes/gradients/gradients.h"
#include "passes/passes.h"

#include <check.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct rule_case {
    int opset;
    const char *operands; /* "a[2,3] b[3]+ c[4]!": + means positive elements only, ! a weight whose
                             first size the rule must know */
    const char *text;
} rule_case;

static const rule_case cases[] = {
    /* elementwise; broadcasting both ways */
    {17, "a[2,3]", "y = Abs (a)"},
    {17, "a[2,3]", "t = Constant <value = double {0.5}> () s = Mul (a, t) y = Acos (s)"},
    {17, "a[2,3]+", "t = Constant <value = double {1.5}> () s = Add (a, t) y = Acosh (s)"},
    {17, "a[2,1,3] b[4,1]", "y = Add (a, b)"},
    {17, "a[2,3]", "t = Constant <value = double {0.5}> () s = Mul (a, t) y = Asin (s)"},
    {17, "a[2,3]", "y = Asinh (a)"},
    {17, "a[2,3]", "y = Atan (a)"},
    {17, "a[2,3]", "t = Constant <value = double {0.5}> () s = Mul (a, t) y = Atanh (s)"},
    {17, "a[2,3]", "f = Cast <to = 11> (a) y = Identity (f)"},
    {19, "a[2,3] b[1]", "y = CastLike (a, b)"},
    {17, "a[2,3]", "y = Celu <alpha = 0.7> (a)"},
    {17, "a[2,4]",
     "l = Constant <value = double {-0.5}> () h = Constant <value = double {0.9}> () "
     "y = Clip (a, l, h)"},
    {17, "a[2,3]", "y = Cos (a)"},
    {17, "a[2,3]", "y = Cosh (a)"},
    {17, "a[1,3] b[2,1,3]", "y = Div (a, b)"},
    {17, "a[2,3]", "y = Elu <alpha = 1.5> (a)"},
    {17, "a[2,3]", "y = Erf (a)"},
    {17, "a[2,3]", "y = Exp (a)"},
    {20, "a[2,3]", "y = Gelu (a)"},
    {17, "a[2,3]",
     "s = ReduceSum <keepdims = 0> (a) k = Constant <value = double {0}> () "
     "q = Greater (s, k) y = If (q) <then_branch = f () => (p) { p = Exp (a) }, "
     "else_branch = f () => (r) { w = Mul (a, a) r = Neg (w) }>"},
    {20, "a[2,3]", "y = Gelu <approximate = \"tanh\"> (a)"},
    {17, "a[2,3]", "y = HardSigmoid <alpha = 0.5, beta = 0.4> (a)"},
    {17, "a[2,3]", "y = HardSwish (a)"},
    {17, "a[2,3]", "y = LeakyRelu <alpha = 0.2> (a)"},
    {17, "a[2,3]+", "y = Log (a)"},
    {17, "a[2,3] b[3] c[2,1]", "y = Max (a, b, c)"},
    {17, "a[2,3] b[3] c[2,1]", "y = Mean (a, b, c)"},
    {17, "a[2,3] b[3] c[2,1]", "y = Min (a, b, c)"},
    {18, "a[2,3]", "y = Mish (a)"},
    {17, "a[2,3]+ b[3]+",
     "t = Constant <value = double {0.29}> () s = Mul (b, t) "
     "y = Mod <fmod = 1> (a, s)"},
    {17, "a[2,3] b[1,3]", "y = Mul (a, b)"},
    {17, "a[2,3]", "y = Neg (a)"},
    {17, "a[2,3] b[3]", "y = PRelu (a, b)"},
    {17, "a[2,3]+ b[3]", "y = Pow (a, b)"},
    {17, "a[2,3]", "t = Constant <value = double {3}> () y = Pow (a, t)"},
    {17, "a[2,3]+", "t = Constant <value = double {0.3}> () y = Pow (a, t)"},
    {17, "a[2,3]", "y = Reciprocal (a)"},
    {17, "a[2,3]", "y = Relu (a)"},
    {17, "a[2,3]", "y = Selu (a)"},
    {17, "a[2,3]", "y = Shrink <lambd = 0.5, bias = 0.2> (a)"},
    {17, "a[2,3]", "y = Sigmoid (a)"},
    {17, "a[2,3]", "y = Sin (a)"},
    {17, "a[2,3]", "y = Sinh (a)"},
    {17, "a[2,3]", "y = Softplus (a)"},
    {17, "a[2,3]", "y = Softsign (a)"},
    {17, "a[2,3]+", "y = Sqrt (a)"},
    {17, "a[4,1] b[2,1,3]", "y = Sub (a, b)"},
    {17, "a[2,3] b[3] c[1,1]", "y = Sum (a, b, c)"},
    {24, "a[2,3]", "y = Swish <alpha = 1.5> (a)"},
    {17, "a[2,3]", "y = Tan (a)"},
    {17, "a[2,3]", "y = Tanh (a)"},
    {17, "a[2,3]", "y = ThresholdedRelu <alpha = 0.5> (a)"},
    {17, "a[2,3] b[3]",
     "t = Constant <value = double {0.1}> () c = Greater (b, t) "
     "y = Where (c, a, b)"},
    {17, "a[2,3]",
     "r = Constant <value = float {0}> () t = Constant <value = bool {1}> () "
     "y = Dropout (a, r, t)"},
    /* products */
    {17, "a[2,3,4] b[4,5]", "y = MatMul (a, b)"},
    {17, "a[2,1,3,4] b[3,4,2]", "y = MatMul (a, b)"},
    {17, "a[4] b[2,4,5]", "y = MatMul (a, b)"},
    {17, "a[4,2] b[3,4] c[3]",
     "y = Gemm <transA = 1, transB = 1, alpha = 0.5, beta = 2.0> (a, b, c)"},
    {17, "a[2,3,4] b[4,3,5]", "y = Einsum <equation = \"bij,jik->bk\"> (a, b)"},
    {17, "a[3,3]", "y = Einsum <equation = \"ii->i\"> (a)"},
    {17, "a[3,2,3]", "y = Einsum <equation = \"iji->ji\"> (a)"},
    {17, "a[2,1] b[4,3]", "y = Einsum <equation = \"ij,jk->ik\"> (a, b)"},
    {17, "a[3,3]", "y = Det (a)"},
    {17, "a[2,4,5] b[6,2,3] c[6]", "y = Conv <group = 2, pads = [1, 1], strides = [2]> (a, b, c)"},
    {17, "a[1,2,5,4] b[3,2,2,3]",
     "y = Conv <dilations = [2, 1], auto_pad = \"SAME_UPPER\"> (a, b)"},
    {17, "a[2,4,3] b[4,1,3] c[2]",
     "y = ConvTranspose <group = 2, strides = [2], pads = [1, 0], output_padding = [1]> (a, b, c)"},
    /* pooling, resizing */
    {19, "a[1,2,5,5]",
     "y = AveragePool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1]> (a)"},
    {17, "a[1,2,4,5]",
     "y = AveragePool <kernel_shape = [2, 3], pads = [1, 1, 0, 1], "
     "count_include_pad = 1> (a)"},
    {17, "a[1,2,3,4]", "y = GlobalAveragePool (a)"},
    {17, "a[1,2,3,4]", "y = GlobalMaxPool (a)"},
    {17, "a[1,2,5,6]",
     "y = MaxPool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0], "
     "dilations = [1, 2]> (a)"},
    {17, "a[1,2,3,4]",
     "s = Constant <value = float[4] {1, 1, 2, 1.5}> () "
     "y = Resize <mode = \"linear\"> (a, , s)"},
    {17, "a[1,1,4,4]",
     "s = Constant <value = int64[4] {1, 1, 7, 3}> () "
     "y = Resize <mode = \"cubic\", coordinate_transformation_mode = "
     "\"align_corners\"> (a, , , s)"},
    {17, "a[1,1,4,4]",
     "s = Constant <value = float[4] {1, 1, 2, 0.5}> () "
     "y = Resize <mode = \"nearest\"> (a, , s)"},
    {18, "a[1,1,5,7]",
     "s = Constant <value = int64[2] {3, 4}> () "
     "y = Resize <mode = \"linear\", antialias = 1, axes = [2, 3]> (a, , , s)"},
    {18, "a[1,1,5,7]",
     "s = Constant <value = int64[4] {1, 1, 2, 9}> () "
     "y = Resize <mode = \"cubic\", antialias = 1, exclude_outside = 1> (a, , , s)"},
    {17, "a[1,1,4,5]",
     "r = Constant <value = float[8] {0, 0, 0.2, -0.3, 1, 1, 0.9, 0.8}> () "
     "s = Constant <value = int64[4] {1, 1, 4, 6}> () "
     "y = Resize <mode = \"linear\", coordinate_transformation_mode = \"tf_crop_and_resize\", "
     "extrapolation_value = 0.4> (a, r, , s)"},
    /* normalisation */
    {17, "a[3,2,4] b[2] c[2]",
     "m = Constant <value = double[2] {0.1, 0.2}> () v = Constant <value = double[2] {1, 2}> () "
     "y, p, q = BatchNormalization <training_mode = 1> (a, b, c, m, v)"},
    {17, "a[3,2,4] b[2] c[2]",
     "m = Constant <value = double[2] {0.1, 0.2}> () v = Constant <value = double[2] {1, 2}> () "
     "y = BatchNormalization (a, b, c, m, v)"},
    {17, "a[2,3,4] b[3] c[3]", "y = InstanceNormalization (a, b, c)"},
    {17, "a[2,3,4] b[3,4] c[4]", "y = LayerNormalization <axis = 1> (a, b, c)"},
    {17, "a[2,3,4]", "y = LpNormalization <axis = 1, p = 2> (a)"},
    {17, "a[2,3,4]", "y = LpNormalization <axis = -1, p = 1> (a)"},
    {17, "a[2,3,4]", "y = Softmax <axis = 1> (a)"},
    {17, "a[2,3,4]", "y = LogSoftmax <axis = -1> (a)"},
    /* losses */
    {17, "a[3,4,2] b[4]+",
     "l = Constant <value = int64[3,2] {0, 3, 1, 2, -1, 3}> () "
     "y = SoftmaxCrossEntropyLoss <ignore_index = -1> (a, l, b)"},
    {17, "a[3,4]",
     "l = Constant <value = int64[3] {0, 3, 1}> () "
     "y = SoftmaxCrossEntropyLoss <reduction = \"none\"> (a, l)"},
    {17, "a[3,4,2]",
     "l = Constant <value = int64[3,2] {0, 3, 1, 2, 0, 3}> () "
     "y = NegativeLogLikelihoodLoss <reduction = \"sum\"> (a, l)"},
    /* reductions */
    {17, "a[2,3,4]", "y = ReduceL1 <axes = [1]> (a)"},
    {17, "a[2,3,4]", "y = ReduceL2 <axes = [-1, 0], keepdims = 0> (a)"},
    {17, "a[2,3,4]+", "y = ReduceLogSum <axes = [1]> (a)"},
    {17, "a[2,3,4]", "y = ReduceLogSumExp <axes = [2], keepdims = 0> (a)"},
    {17, "a[2,3,4]", "y = ReduceMax <axes = [1]> (a)"},
    {18, "a[2,3,4]",
     "x = Constant <value = int64[2] {0, 2}> () y = ReduceMean <keepdims = 0> (a, x)"},
    {17, "a[2,3,4]", "y = ReduceMin <axes = [0, 2], keepdims = 0> (a)"},
    {17, "a[2,3,4]", "y = ReduceProd <axes = [1]> (a)"},
    {17, "a[2,3,4]", "y = ReduceSum (a)"},
    {17, "a[2,3,4]", "y = ReduceSumSquare <axes = [1]> (a)"},
    {17, "a[2,3,4]", "k = Constant <value = int64[1] {2}> () y, i = TopK <axis = 2> (a, k)"},
    {17, "a[2,5]",
     "x = Constant <value = int64 {1}> () y = CumSum <exclusive = 1, reverse = 1> (a, x)"},
    /* movement */
    {17, "a[2,3] b[2,1]", "y = Concat <axis = -1> (a, b)"},
    {17, "a[1,8,2,3]", "y = DepthToSpace <blocksize = 2, mode = \"CRD\"> (a)"},
    {17, "a[1,8,2,3]", "y = DepthToSpace <blocksize = 2> (a)"},
    {17, "a[1,2,4,6]", "y = SpaceToDepth <blocksize = 2> (a)"},
    {28, "a[1,2,4,6]", "y = SpaceToDepth <blocksize = 2, mode = \"CRD\"> (a)"},
    {17, "a[3,1]", "s = Constant <value = int64[3] {2, 1, 4}> () y = Expand (a, s)"},
    {17, "a[2,3,4]", "y = Flatten <axis = 2> (a)"},
    {17, "a[2,3]", "y = Identity (a)"},
    {17, "a[2,3,4]", "p = Constant <value = int64[6] {1, 0, -1, 2, 1, 0}> () y = Pad (a, p)"},
    {17, "a[3,4]",
     "p = Constant <value = int64[4] {1, 2, 1, 0}> () y = Pad <mode = \"reflect\"> (a, p)"},
    {17, "a[3,4]",
     "p = Constant <value = int64[4] {1, 2, 1, 0}> () y = Pad <mode = \"edge\"> (a, p)"},
    {19, "a[3,4]",
     "p = Constant <value = int64[4] {1, 0, 2, 1}> () x = Constant <value = int64[2] {-1, 0}> () "
     "y = Pad <mode = \"wrap\"> (a, p, , x)"},
    {17, "a[2,3,4]", "s = Constant <value = int64[2] {0, -1}> () y = Reshape (a, s)"},
    {17, "a[4,3,2]",
     "l = Constant <value = int64[3] {2, 4, 1}> () "
     "y = ReverseSequence <time_axis = 0, batch_axis = 1> (a, l)"},
    {17, "a[5,4]",
     "s = Constant <value = int64[2] {-1, 0}> () e = Constant <value = int64[2] {-5, 3}> () "
     "x = Constant <value = int64[2] {0, 1}> () p = Constant <value = int64[2] {-2, 1}> () "
     "y = Slice (a, s, e, x, p)"},
    {17, "a[5,4]",
     "s = Constant <value = int64 {1}> () e = Constant <value = int64 {3}> () "
     "x = Constant <value = int64[1] {1}> () y = Slice (a, s, e, x)"},
    {17, "a[3,1]",
     "n = Constant <value = int64[2] {3, 0}> () s = Constant <value = int64[1] {-1}> () "
     "none = Expand (a, n) f = Reshape (none, s) h = Reshape (a, s) y = Concat <axis = 0> (h, f)"},
    {17, "a[2,5]", "s = Constant <value = int64[2] {2, 3}> () y, z = Split <axis = 1> (a, s)"},
    {17, "a[2,1,3]", "x = Constant <value = int64[1] {1}> () y = Squeeze (a, x)"},
    {17, "a[2,3]", "x = Constant <value = int64[2] {0, -1}> () y = Unsqueeze (a, x)"},
    {17, "a[2,3]", "r = Constant <value = int64[2] {2, 3}> () y = Tile (a, r)"},
    {17, "a[2,3,4]", "y = Transpose <perm = [2, 0, 1]> (a)"},
    {17, "a[4,4]", "k = Constant <value = int64 {1}> () y = Trilu <upper = 0> (a, k)"},
    /* indices, with repeated ones */
    {17, "a[4,3]", "i = Constant <value = int64[2,2] {0, 2, -1, 2}> () y = Gather (a, i)"},
    {17, "a[3,3]",
     "i = Constant <value = int64[2,3] {0, 2, 1, 0, -1, 1}> () "
     "y = GatherElements <axis = 0> (a, i)"},
    {17, "a[3,4,2]",
     "i = Constant <value = int64[3,2] {0, 1, 2, -1, 0, 1}> () y = GatherND (a, i)"},
    {18, "a[3,4] b[2,4]",
     "i = Constant <value = int64[2,4] {0, 2, 1, 0, 1, 1, 2, 2}> () "
     "y = ScatterElements <axis = 0> (a, i, b)"},
    {18, "a[3,4] b[2,4]",
     "i = Constant <value = int64[2,4] {0, 2, 1, 0, 0, 1, 1, 2}> () "
     "y = ScatterElements <axis = 0, reduction = \"add\"> (a, i, b)"},
    {18, "a[4,3] b[2,3]", "i = Constant <value = int64[2,1] {2, 0}> () y = ScatterND (a, i, b)"},
    {18, "a[4,3] b[3,3]",
     "i = Constant <value = int64[3,1] {2, 0, -2}> () y = ScatterND (a, i, b)"},
    {18, "a[3,4] b[2,4]",
     "i = Constant <value = int64[2,4] {0, 2, 1, 0, 0, 1, 1, 2}> () "
     "y = ScatterElements <axis = 0> (a, i, b)"},
    {18, "a[4,3] b[2,3]",
     "i = Constant <value = int64[2,1] {2, 2}> () "
     "y = ScatterND <reduction = \"add\"> (a, i, b)"},
    /* written out in other operators (graph/compound.c) */
    {18, "a[2,4,3] b[2] c[2]", "y = GroupNormalization <num_groups = 2> (a, b, c)"},
    {21, "a[2,4,3,2] b[4] c[4]", "y = GroupNormalization <num_groups = 2> (a, b, c)"},
    {23, "a[2,3,4] b[3,4]", "y = RMSNormalization <axis = 1> (a, b)"},
    {17, "a[2,3,2,3]", "y = MeanVarianceNormalization (a)"},
    {17, "a[2,5,3]", "y = LRN <size = 4, alpha = 0.5, beta = 0.7, bias = 1.5> (a)"},
    {17, "a[1,2,5,4]",
     "y = LpPool <kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 0, 1]> (a)"},
    {17, "a[1,2,5]", "y = LpPool <kernel_shape = [2], p = 3> (a)"},
    {17, "a[1,2,5]", "y = LpPool <kernel_shape = [2], p = 1> (a)"},
    {17, "a[2,2,3,2]", "y = GlobalLpPool <p = 3> (a)"},
    {17, "a[1,2,2,2]",
     "i = Constant <value = int64[1,2,2,2] {5, 7, 13, 15, 16, 19, 26, 31}> () "
     "y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (a, i)"},
    {23, "q[2,4,3,4] k[2,2,5,4] v[2,2,5,2] m[3,5]", "y = Attention (q, k, v, m)"},
    {23, "q[2,3,8] k[2,3,4] v[2,3,4]",
     "y = Attention <q_num_heads = 4, kv_num_heads = 2, is_causal = 1, softcap = 1.5, "
     "scale = 0.7> (q, k, v)"},
    {23, "q[1,2,2,4] k[1,2,3,4] v[1,2,3,4] p[1,2,2,4] r[1,2,2,4]",
     "m = Constant <value = bool[2,5] {1, 0, 1, 1, 0, 0, 0, 0, 0, 0}> () "
     "y, z = Attention <is_causal = 1> (q, k, v, m, p, r)"},
    {23, "a[2,2,3,4] c[3,2] s[3,2]",
     "p = Constant <value = int64[2,3] {0, 1, 2, 2, 0, 1}> () y = RotaryEmbedding (a, c, s, p)"},
    {23, "a[2,3,12] c[2,3,2] s[2,3,2]",
     "y = RotaryEmbedding <num_heads = 2, interleaved = 1, rotary_embedding_dim = 4> (a, c, s)"},
    {20, "a[2,2,3]", "s = Constant <value = int64[4] {2, 1, 3, 4}> () y = AffineGrid (a, s)"},
    {20, "a[1,3,4]",
     "s = Constant <value = int64[5] {1, 1, 2, 3, 2}> () "
     "y = AffineGrid <align_corners = 1> (a, s)"},
    {18, "a[5,4]", "s = Constant <value = int64[2] {2, 7}> () y = CenterCropPad (a, s)"},
    {18, "a[5,4,3]",
     "s = Constant <value = int64[2] {6, 3}> () y = CenterCropPad <axes = [2, -2]> (a, s)"},
    {17, "a[3,4]", "c = Constant <value = bool[3] {1, 0, 1}> () y = Compress <axis = -1> (a, c)"},
    {17, "a[2,3]", "c = Constant <value = bool[5] {0, 1, 1, 0, 1}> () y = Compress (a, c)"},
    {28, "a[2,3] b[2,3]", "y = SwiGLU <alpha = 1.3> (a, b)"},
    {9, "a[3,3] b[2,3]",
     "i = Constant <value = int64[2,3] {1, 0, 2, 0, 2, 1}> () y = Scatter (a, i, b)"},
    {9, "a[1,1,2,3]",
     "s = Constant <value = float[4] {1, 1, 2, 1.5}> () y = Upsample <mode = \"linear\"> (a, s)"},
    {26, "a[2,4,3]", "x = Constant <value = int64 {1}> () y = CumProd (a, x)"},
    {26, "a[2,4]",
     "x = Constant <value = int64 {-1}> () y = CumProd <exclusive = 1, reverse = 1> (a, x)"},
    {24, "a[2,5,3] b[2,2,3]",
     "w = Constant <value = int64[2] {1, 3}> () y = TensorScatter (a, b, w)"},
    {24, "a[2,2,4] b[2,2,3]",
     "w = Constant <value = int64[2] {1, 3}> () "
     "y = TensorScatter <axis = -1, mode = \"circular\"> (a, b, w)"},
    {18, "a[2,12,6]",
     "s = Constant <value = int64[2] {4, 4}> () k = Constant <value = int64[2] {2, 3}> () "
     "y = Col2Im (a, s, k)"},
    {18, "a[1,8,9]",
     "s = Constant <value = int64[2] {5, 4}> () k = Constant <value = int64[2] {2, 2}> () "
     "y = Col2Im <strides = [2, 1], pads = [1, 0, 0, 1], dilations = [1, 2]> (a, s, k)"},
    {16, "a[2,2,3,4] g[2,2,3,2]", "y = GridSample (a, g)"},
    {16, "a[1,2,3,4] g[1,2,3,2]",
     "y = GridSample <padding_mode = \"border\", align_corners = 1> (a, g)"},
    {16, "a[1,2,3,4] g[1,2,3,2]",
     "y = GridSample <mode = \"bicubic\", padding_mode = \"reflection\"> (a, g)"},
    {20, "a[1,2,3,4] g[1,2,3,2]", "y = GridSample <mode = \"cubic\"> (a, g)"},
    {20, "a[1,2,2,3,2] g[1,2,1,3,3]",
     "y = GridSample <mode = \"linear\", padding_mode = \"reflection\"> (a, g)"},
    {20, "a[1,2,3,4] g[1,2,3,2]", "y = GridSample <mode = \"nearest\"> (a, g)"},
    {22, "a[2,4,4,5] w[2,2,2,3]! o[2,24,2,4] b[2] m[2,12,2,4]",
     "y = DeformConv <group = 2, offset_group = 2, strides = [2, 1], pads = [0, 1, 1, 0], "
     "dilations = [2, 1]> (a, w, o, b, m)"},
    {19, "a[1,2,4,4] w[3,2,2,2]! o[1,8,3,3]", "y = DeformConv (a, w, o)"},
    {16, "a[2,2,5,6] r[2,4]",
     "i = Constant <value = int64[2] {1, 0}> () k = Constant <value = double[4] {0, 0, 3, 3}> () "
     "q = Abs (r) s = Add (q, k) y = RoiAlign <output_height = 2, output_width = 3, "
     "sampling_ratio = 2, spatial_scale = 0.9> (a, s, i)"},
    {20, "a[2,5,1]", "y = DFT <onesided = 1> (a)"},
    {20, "a[2,72,1]", "y = DFT <onesided = 1> (a)"},
    {20, "a[1,134,2]", "y = DFT (a)"}, /* 2 x 67: a convolution */
    {20, "a[1,70,2]", "y = DFT <inverse = 1> (a)"},
    {20, "a[2,5,3,2]",
     "n = Constant <value = int64 {4}> () x = Constant <value = int64 {1}> () y = DFT (a, n, x)"},
    {17, "a[2,4,2]", "y = DFT <inverse = 1, onesided = 1> (a)"},
    {17, "a[3,4,2]!", "n = Constant <value = int64 {5}> () y = DFT <inverse = 1, axis = 0> (a, n)"},
    {17, "a[2,9,1] w[4]!", "s = Constant <value = int64 {2}> () y = STFT (a, s, w)"},
    {17, "a[1,7,2]",
     "s = Constant <value = int64 {3}> () n = Constant <value = int64 {4}> () "
     "y = STFT <onesided = 0> (a, s, , n)"},
    /* recurrent: all operands; each direction, layout, lengths, what of the outputs is used */
    {17, "x[4,2,3] w[1,12,3] r[1,12,3] b[1,24] h[1,2,3] c[1,2,3] p[1,9]",
     "y, z, q = LSTM <hidden_size = 3> (x, w, r, b, , h, c, p) k = Exp (q)"},
    {17, "x[4,2,3] w[2,8,3] r[2,8,2] b[2,16] h[2,2,2] c[2,2,2] p[2,6]",
     "l = Constant <value = int32[2] {4, 2}> () y, z, q = LSTM <hidden_size = 2, "
     "direction = \"bidirectional\"> (x, w, r, b, l, h, c, p)"},
    {17, "x[2,4,3] w[1,8,3] r[1,8,2]",
     "o, y, z = LSTM <hidden_size = 2, layout = 1, "
     "direction = \"reverse\"> (x, w, r)"},
    {17, "x[4,2,3] w[1,8,3] r[1,8,2] b[1,16]", ", , y = LSTM <hidden_size = 2> (x, w, r, b)"},
    {17, "x[4,2,3] w[2,6,3] r[2,6,2] b[2,12] h[2,2,2]",
     "y, z = GRU <hidden_size = 2, direction = \"bidirectional\", linear_before_reset = 1> "
     "(x, w, r, b, , h)"},
    {17, "x[4,2,3] w[2,6,3] r[2,6,2] b[2,12] h[2,2,2]",
     "l = Constant <value = int32[2] {1, 3}> () y, z = GRU <hidden_size = 2, "
     "direction = \"bidirectional\"> (x, w, r, b, l, h)"},
    {17, "x[2,4,3] w[1,6,3] r[1,6,2] b[1,12] h[2,1,2]",
     "y, z = GRU <hidden_size = 2, layout = 1> (x, w, r, b, , h)"},
    {17, "x[4,2,3] w[1,6,3] r[1,6,2]", ", y = GRU <hidden_size = 2> (x, w, r)"},
    {17, "x[4,2,3] w[2,2,3] r[2,2,2] b[2,4] h[2,2,2]",
     "l = Constant <value = int32[2] {4, 3}> () y, z = RNN <hidden_size = 2, "
     "direction = \"bidirectional\", activations = [\"Tanh\", \"Relu\"]> (x, w, r, b, l, h)"},
    {17, "x[1,2,3] w[1,2,3] r[1,2,2]", "y = RNN <hidden_size = 2> (x, w, r)"},
    /* clipped gates, coupled gates, every activation */
    {17, "x[4,2,3] w[1,8,3] r[1,8,2] b[1,16] h[1,2,2] c[1,2,2] p[1,6]",
     "y, z = LSTM <hidden_size = 2, clip = 0.9, input_forget = 1> (x, w, r, b, , h, c, p)"},
    {17, "x[4,2,3] w[2,8,3] r[2,8,2] b[2,16]",
     "y, z = LSTM <hidden_size = 2, clip = 1.1, direction = \"bidirectional\", activations = "
     "[\"HardSigmoid\", \"Softsign\", \"ScaledTanh\", \"Sigmoid\", \"Elu\", \"Affine\"], "
     "activation_alpha = [0.3, 0.0, 1.2, 0.0, 0.8, 0.7], "
     "activation_beta = [0.4, 0.0, 0.6, 0.0, 0.0, 0.1]> (x, w, r, b)"},
    {17, "x[4,2,3] w[1,8,3] r[1,8,2] c[1,2,2]",
     "y, z = LSTM <hidden_size = 2, input_forget = 1> (x, w, r, , , , c)"},
    {17, "x[4,2,3] w[2,6,3] r[2,6,2] b[2,12]",
     "y, z = GRU <hidden_size = 2, clip = 1.2, direction = \"bidirectional\", activations = "
     "[\"Sigmoid\", \"LeakyRelu\", \"HardSigmoid\", \"Softplus\"], "
     "activation_alpha = [0.0, 0.3, 0.25, 0.0], activation_beta = [0.0, 0.0, 0.5, 0.0]> "
     "(x, w, r, b)"},
    {17, "x[4,2,3] w[1,6,3] r[1,6,2] b[1,12]",
     "y, z = GRU <hidden_size = 2, clip = 1.2, linear_before_reset = 1> (x, w, r, b)"},
    {17, "x[4,2,3] w[2,2,3] r[2,2,2] b[2,4] h[2,2,2]",
     "l = Constant <value = int32[2] {4, 2}> () y, z = RNN <hidden_size = 2, clip = 1.0, "
     "direction = \"bidirectional\", activations = [\"ThresholdedRelu\", \"Tanh\"], "
     "activation_alpha = [0.2, 0.0]> (x, w, r, b, l, h)"},
};

/* ------------------------------------------------------------------ a case as a model */

static uint64_t noise;

static double uniform(void) /* in [0, 1) */
{
    noise = noise * 6364136223846793005u + 1442695040888963407u;
    return (double)(noise >> 11) / 9007199254740992.0;
}

static bool defines(const char *text, char name)
{
    for (const char *at = text; (at = strchr(at, name)) != NULL; at++)
        if ((at == text || !isalnum((unsigned char)at[-1])) && !isalnum((unsigned char)at[1]) &&
            at < strrchr(text, '='))
            return true;
    return false;
}

/* How a case is run. */
typedef enum how { KERNELS, BODIES, OPEN, NHOW } how;

/* One operand of "a[2,3] b[3]+ c[4]!". */
typedef struct operand {
    char name, input[3], dims[32], rest[32]; /* rest: the sizes behind the first, as ", 3, 4" */
    int64_t size[8], count;
    int rank;
    bool positive, keeps; /* +: only positive elements; !: its first size stays known */
} operand;

static bool next_operand(const char **at, operand *o)
{
    int used = 0;
    if (!**at)
        return false;
    memset(o, 0, sizeof *o);
    o->name = **at;
    snprintf(o->input, sizeof o->input, "%c_", o->name);
    ck_assert_int_eq(sscanf(*at + 1, "[%31[0-9,]]%n", o->dims, &used), 1);
    const char *behind = strchr(o->dims, ',');
    snprintf(o->rest, sizeof o->rest, "%s", behind ? behind : "");
    o->count = 1;
    for (const char *d = o->dims; d; d = strchr(d, ',') ? strchr(d, ',') + 1 : NULL) {
        o->size[o->rank] = atoi(d);
        o->count *= o->size[o->rank++];
    }
    for (*at += 1 + used; **at == '+' || **at == '!' || **at == ' '; ++*at) {
        o->positive = o->positive || **at == '+';
        o->keeps = o->keeps || **at == '!';
        if (**at == ' ') {
            ++*at;
            break;
        }
    }
    return true;
}

/* Initializers with made-up elements. */
static size_t write_operands(char *to, size_t size, const char *operands)
{
    size_t n = 0;
    operand o;
    for (const char *at = operands; next_operand(&at, &o);) {
        n += (size_t)snprintf(to + n, size - n, "%sdouble[%s] %c = {", n ? ", " : "", o.dims,
                              o.name);
        for (int64_t i = 0; i < o.count; i++) {
            double x = 0.3 + uniform(), sign = o.positive || uniform() < 0.5 ? 1 : -1;
            n += (size_t)snprintf(to + n, size - n, "%s%.17g", i ? ", " : "", sign * x);
        }
        n += (size_t)snprintf(to + n, size - n, "}");
    }
    return n;
}

/* Graph inputs a_ of the operands' sizes, of which the first is a name: what takes the shape of one
 * has a size that nobody knows before the run. */
static size_t write_inputs(char *to, size_t size, const char *operands)
{
    size_t n = 0;
    operand o;
    for (const char *at = operands; next_operand(&at, &o);)
        if (!o.keeps)
            n += (size_t)snprintf(to + n, size - n, "%sdouble[N%c%s] %s", n ? ", " : "", o.name,
                                  o.rest, o.input);
    return n;
}

static bool is_letter(char c) /* of a name, or around a string */
{
    return isalnum((unsigned char)c) || c == '_' || c == '"';
}

/* The case's text, in which each operand a is `a in the shape of a_`. */
static void write_text(char *to, size_t size, const rule_case *c)
{
    size_t n = 0;
    operand o;
    for (const char *at = c->operands; next_operand(&at, &o);)
        if (!o.keeps)
            n += (size_t)snprintf(to + n, size - n,
                                  "%c_shape = Shape (%c_) %c_open = Reshape (%c, %c_shape) ",
                                  o.name, o.name, o.name, o.name, o.name);
    for (const char *at = c->text; *at && n + 8 < size; at++) {
        bool word = (at == c->text || !is_letter(at[-1])) && !is_letter(at[1]);
        const char *given = strchr(c->operands, *at);
        n += (size_t)snprintf(to + n, size - n, "%c", *at);
        if (word && islower((unsigned char)*at) && given && given[1] == '[' &&
            !(strcspn(given, "!") < strcspn(given, " ")))
            n += (size_t)snprintf(to + n, size - n, "_open");
    }
}

static mtbal_model *model_of(const rule_case *c, how how)
{
    static char text[1 << 15], inputs[400], body[4000];
    mtbal_diag diag = {0};
    inputs[0] = 0;
    snprintf(body, sizeof body, "%s", c->text);
    if (how == OPEN) {
        write_inputs(inputs, sizeof inputs, c->operands);
        write_text(body, sizeof body, c);
    }
    size_t n = (size_t)snprintf(
        text, sizeof text, "<ir_version: 8, opset_import: [\"\" : %d]>\ng (%s) => (double loss) <",
        c->opset, inputs);
    n += write_operands(text + n, sizeof text - n, c->operands);
    bool two = defines(c->text, 'z');
    snprintf(text + n, sizeof text - n,
             "> { %s\n sy = Sin (y) ly = ReduceSum <keepdims = 0> (sy)\n%s }", body,
             two ? " sz = Sin (z) lz = ReduceSum <keepdims = 0> (sz) loss = Add (ly, lz)"
                 : " loss = Identity (ly)");
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s: %s", c->text, diag.where, diag.what);
    return model;
}

/* ------------------------------------------------------------------ the check */

static double loss_of(mtbal_instance *instance)
{
    mtbal_instance_run(instance, 0);
    return *(double *)mtbal_instance_output(instance, "loss")->data;
}

/* Moves all operands by h along the direction. */
static void move(mtbal_instance *instance, const mtbal_context *context, double *const *direction,
                 double h)
{
    for (int i = 0; i < context->nparams; i++) {
        rt_tensor *t = mtbal_instance_input(instance, context->params[i].value->name);
        for (int64_t k = 0; k < rt_count(t); k++)
            ((double *)t->data)[k] += h * direction[i][k];
    }
}

static void compare(const rule_case *c, mtbal_instance *instance, const mtbal_context *context)
{
    enum { MAX_OPERANDS = 8 };
    const double h = 1e-5;
    double *direction[MAX_OPERANDS], slope = 0, size = 0;
    ck_assert_int_le(context->nparams, MAX_OPERANDS);
    loss_of(instance);
    for (int i = 0; i < context->nparams; i++) {
        char name[80];
        snprintf(name, sizeof name, "mtbal/grad/%s", context->params[i].value->name);
        const rt_tensor *g = mtbal_instance_output(instance, name);
        ck_assert_msg(g != NULL, "%s: no gradient of %s", c->text, context->params[i].value->name);
        direction[i] = calloc((size_t)rt_count(g), sizeof(double));
        for (int64_t k = 0; k < rt_count(g); k++) {
            direction[i][k] = 2 * uniform() - 1;
            slope += direction[i][k] * ((double *)g->data)[k];
            size += fabs(((double *)g->data)[k]);
        }
    }
    move(instance, context, direction, h);
    double up = loss_of(instance);
    move(instance, context, direction, -2 * h);
    double down = loss_of(instance), measured = (up - down) / (2 * h);
    move(instance, context, direction, h);
    for (int i = 0; i < context->nparams; i++)
        free(direction[i]);
    ck_assert_msg(size > 0, "%s: the gradient is zero", c->text);
    ck_assert_msg(fabs(slope - measured) <= 1e-7 * fmax(1, size),
                  "opset %d, %s: the loss changes by %.12g, the gradient says %.12g", c->opset,
                  c->text, measured, slope);
}

/* The step with fused kernels, with the bodies of the functions that they stand for, or with sizes
 * that are not known before the run. */
static void check_rule(const rule_case *c, how how)
{
    mtbal_diag diag = {0};
    static operand operands[8];
    mtbal_bind binds[8];
    int nbinds = 0;
    mtbal_options options;
    mtbal_context *context;
    mtbal_plan *plan;
    mtbal_instance *instance;
    const char *all = "?", *names[8];
    mtbal_model *model = model_of(c, how);
    mtbal_options_default(&options);
    options.outputs = MTBAL_OUT_GRADS;
    options.balance = "equal";
    options.ntrain = 1;
    options.train = &all;
    ck_assert_msg(mtbal_rewrite(model, &options, &context, &diag) == MTBAL_OK, "%s: %s: %s",
                  c->text, diag.where, diag.what);
    for (int i = 0; i < context->nparams && i < 8; i++)
        names[i] = context->params[i].value->name;
    for (const char *at = c->operands; how == OPEN && next_operand(&at, &operands[nbinds]);) {
        operand *o = &operands[nbinds];
        if (o->keeps)
            continue;
        binds[nbinds] = (mtbal_bind){.name = o->input, .rank = o->rank};
        memcpy(binds[nbinds++].dims, o->size, sizeof o->size);
    }
    mtbal_lower_options lower = {.nbinds = nbinds,
                                 .binds = binds,
                                 .noutputs = -1,
                                 .states = true,
                                 .nfixed = context->nparams,
                                 .fixed = names,
                                 .no_fuse = how == BODIES};
    ck_assert_msg(mtbal_lower(model, &lower, &plan, &diag) == MTBAL_OK, "%s: %s: %s", c->text,
                  diag.where, diag.what);
    ck_assert_int_eq(mtbal_instance_new(plan, 1, &instance, &diag), MTBAL_OK);
    for (int i = 0; i < 3; i++)
        compare(c, instance, context);
    mtbal_instance_free(instance);
    mtbal_plan_free(plan);
    mtbal_model_free(model);
}

static const char *letters = "abcd";

/* The case of a rule that none names: all required operands, of which b and later ones broadcast.
 */
static rule_case own_case(int op)
{
    static char texts[MTBAL_NOPS][200], operands[MTBAL_NOPS][80];
    rule_case c = {(int)strtol(mtbal_ops[op].versions, NULL, 10), operands[op], texts[op]};
    size_t n = (size_t)snprintf(texts[op], sizeof texts[op], "y = %s (", mtbal_ops[op].name), m = 0;
    int count = 0;
    for (const char *p = mtbal_ops[op].operands; p && *p && count < 4; p++)
        if (isupper((unsigned char)*p) && (p == mtbal_ops[op].operands || p[-1] == ' ')) {
            n += (size_t)snprintf(texts[op] + n, sizeof texts[op] - n, "%s%c", count ? ", " : "",
                                  letters[count]);
            m += (size_t)snprintf(operands[op] + m, sizeof operands[op] - m, "%s%c[%s3]",
                                  count ? " " : "", letters[count], count ? "" : "2,");
            count++;
        }
    snprintf(texts[op] + n, sizeof texts[op] - n, ")");
    c.opset = c.opset < 17 ? 17 : c.opset;
    return c;
}

START_TEST(test_rule)
{
    for (int how = 0; how < NHOW; how++) {
        noise = (uint64_t)_i + 1;
        check_rule(&cases[_i], (enum how)how);
    }
}
END_TEST

static bool is_named(const char *op)
{
    size_t n = strlen(op);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (const char *at = cases[i].text; (at = strstr(at, op)) != NULL; at += n)
            if ((at == cases[i].text || at[-1] == ' ') && (at[n] == ' '))
                return true;
    return false;
}

START_TEST(test_rules_without_a_case)
{
    int rules = 0;
    for (int op = 0; op < MTBAL_NOPS; op++) {
        bool stop;
        if (!mtbal_gradient_rule(op, &stop) || stop)
            continue;
        rules++;
        if (is_named(mtbal_ops[op].name))
            continue;
        const rule_case own = own_case(op);
        for (int how = 0; how < NHOW; how++)
            check_rule(&own, (enum how)how);
    }
    ck_assert_int_gt(rules, 90);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gradients");
    TCase *tests = tcase_create("rules");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_rule, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_test(tests, test_rules_without_a_case);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
