/* tests/test_misfit.c: models whose operands do not fit each other, a node each: refused by shape
 * inference, which rewriting runs, and by lowering, whether the operands are inputs or constants,
 * with a message that names the node. And models like them that are as they should be: these run.
 */
#include "graph/graph.h"
#include "lower/lower.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* opset; operands with their types; constants; the node, which makes y. */
typedef struct row {
    int opset;
    const char *operands, *constants, *node;
} row;

static const row refused[] = {
    {17, "float[2,3] x, float[4] b", "", "y = Add (x, b)"},
    {17, "float[2,3] x, float[3,2] b", "", "y = Mul (x, b)"},
    {17, "float[2,3] x, double[3] b", "", "y = Sub (x, b)"},
    {17, "float[2,3] x, int64[3] b", "", "y = Div (x, b)"},
    {17, "float[2,3] x, float[2] b", "", "y = Equal (x, b)"},
    {17, "bool[2,3] x, bool[2] b", "", "y = And (x, b)"},
    {17, "float[2,3] x, float[3] b", "", "y = And (x, b)"},
    {17, "float[2,3] x, float[5] b", "", "y = Max (x, x, b)"},
    {17, "float[2,3] x, float[5] b", "", "y = Sum (b, x)"},
    {17, "float[2,3] x, float[5] b", "", "y = Mean (x, b)"},
    {17, "float[2,3] x, float[5] b", "", "y = Pow (x, b)"},
    {17, "float[2,3] x, float[2] b", "", "y = Mod <fmod = 1> (x, b)"},
    {17, "float[2,3] x, bool[7] c", "", "y = Where (c, x, x)"},
    {17, "float[2,3] x, float[2,3] c", "", "y = Where (c, x, x)"},
    {17, "float[2,3] x, bool[3] c, double[3] z", "", "y = Where (c, x, z)"},
    {17, "float[2,3] x, float[2] s", "", "y = PRelu (x, s)"},
    {17, "float[3] x, float[2,3] s", "", "y = PRelu (x, s)"},
    {17, "float[2,3] x, float[5] a", "", "y = Clip (x, a)"},
    {17, "float[2,3] x, float[2] a", "", "y = Clip (x, , a)"},
    {17, "float[2,3] x, double a", "", "y = Clip (x, a)"},
    {17, "int64[2,3] x", "", "y = Sinh (x)"},
    {17, "int64[2,3] x", "", "y = Sigmoid (x)"},
    {17, "bool[2,3] x", "", "y = Neg (x)"},
    {17, "int64[2,3] x", "", "y = Not (x)"},
    {17, "float[2,3] x, float[3] k", "", "y = BitShift <direction = \"LEFT\"> (x, k)"},
    {17, "float[2,3] x, float[2] p", "", "y = Dropout (x, p)"},
    {17, "float[2,3] x, float p, float[1] t", "", "y = Dropout (x, p, t)"},
    {17, "float[2,4] x, float[5,3] w", "", "y = MatMul (x, w)"},
    {17, "float[2,4] x, float w", "", "y = MatMul (x, w)"},
    {17, "float[2,2,4] x, float[3,4,3] w", "", "y = MatMul (x, w)"},
    {17, "float[2,4] x, double[4,3] w", "", "y = MatMul (x, w)"},
    {17, "float[2,4] x, float[4,30] w, float[7] c", "", "y = Gemm (x, w, c)"},
    {17, "float[2,4] x, float[4,30] w, float[3,30] c", "", "y = Gemm (x, w, c)"},
    {17, "float[2,4] x, float[4,30] w, float[1,2,30] c", "", "y = Gemm (x, w, c)"},
    {17, "float[2,4] x, float[4,30] w", "", "y = Gemm <transB = 1> (x, w)"},
    {17, "float[2,4] x, float[2,4,3] w", "", "y = Gemm (x, w)"},
    {17, "float[2,4] x, float[5,3] w", "", "y = Einsum <equation = \"ij,jk->ik\"> (x, w)"},
    {17, "float[2,4] x", "", "y = Einsum <equation = \"ijk->ik\"> (x)"},
    {17, "float[2,4] x", "", "y = Einsum <equation = \"ij,jk->ik\"> (x)"},
    {17, "float[2,3] x", "", "y = Det (x)"},
    {17, "float[3] x", "", "y = Det (x)"},
    {17, "float[1,1,4,4] x, float[100,1,1,1] w, float[2] b", "", "y = Conv (x, w, b)"},
    {17, "float[1,3,4,4] x, float[4,2,1,1] w", "", "y = Conv (x, w)"},
    {17, "float[1,4,4,4] x, float[3,2,1,1] w", "", "y = Conv <group = 2> (x, w)"},
    {17, "float[1,3,4,4] x, float[4,3,1] w", "", "y = Conv (x, w)"},
    {17, "float[1,3,4,4] x, float[4,3,3,3] w", "", "y = Conv <kernel_shape = [2, 2]> (x, w)"},
    {17, "float[1,3,4,4] x, float[4,3,3,3] w", "", "y = Conv <strides = [1]> (x, w)"},
    {17, "float[1,3,4,4] x, float[4,3,3,3] w", "", "y = Conv <strides = [0, 1]> (x, w)"},
    {17, "float[1,3,4,4] x, float[4,3,3,3] w", "", "y = Conv <pads = [1, 1]> (x, w)"},
    {17, "float[1,3,4,4] x, float[4,3,3,3] w", "", "y = Conv <pads = [-1, 0, 0, 0]> (x, w)"},
    {17, "float[1,3,4,4] x, float[4,3,3,3] w", "", "y = Conv <dilations = [1, 1, 1]> (x, w)"},
    {17, "float[1,3,4,4] x, double[4,3,3,3] w", "", "y = Conv (x, w)"},
    {17, "int64[1,3,4,4] x, int64[4,3,3,3] w", "", "y = Conv (x, w)"},
    {17, "float[1,3,4,4] x, float[2,5,3,3] w", "", "y = ConvTranspose (x, w)"},
    {17, "float[1,3,4,4] x, float[3,5,3,3] w, float[3] b", "", "y = ConvTranspose (x, w, b)"},
    {17, "float[1,3,4,4] x, float[3,5,3,3] w", "", "y = ConvTranspose <output_shape = [9]> (x, w)"},
    {17, "float[1,3,4,4] x, float[3,5,3,3] w", "", "y = ConvTranspose <group = 2> (x, w)"},
    {17, "float[1,3,4,4] x", "", "y = MaxPool <kernel_shape = [2]> (x)"},
    {17, "float[1,3] x", "", "y = MaxPool <kernel_shape = [2]> (x)"},
    {17, "float[1,3,4,4] x", "", "y = AveragePool <kernel_shape = [2, 0]> (x)"},
    {17, "float[1,3,4,4] x", "", "y = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1]> (x)"},
    {18, "float[1,3,4,4] x", "", "y = LpPool <kernel_shape = [2, 2, 2]> (x)"},
    {17, "float[3] x", "", "y = GlobalAveragePool (x)"},
    {17, "float[1,3,4,4] x, int64[1,3,4,5] i", "", "y = MaxUnpool <kernel_shape = [2, 2]> (x, i)"},
    {19, "float[1,3,4,4] x, float[4,3,2,2] w, float[2,8,3,3] o", "", "y = DeformConv (x, w, o)"},
    {17, "float[1,3,4,4] x, float[2,5] q, int64[2] n", "", "y = RoiAlign (x, q, n)"},
    {17, "float[1,3,4,4] x, float[2,4] q, int64[3] n", "", "y = RoiAlign (x, q, n)"},
    {17, "float[1,3,4,4] x, float[1,5,5,3] q", "", "y = GridSample (x, q)"},
    {17, "float[1,3,4,4] x, float[2,5,5,2] q", "", "y = GridSample (x, q)"},
    {20, "float[1,2,4] t", "int64[4] n = {1, 3, 5, 5}", "y = AffineGrid (t, n)"},
    {20, "float[2,2,3] t", "int64[4] n = {1, 3, 5, 5}", "y = AffineGrid (t, n)"},
    {18, "float[1,6,4] x", "int64[2] n = {5, 5}, int64[3] k = {1, 2, 1}", "y = Col2Im (x, n, k)"},
    {17, "float[1,3,4,4] x", "", "y = DepthToSpace <blocksize = 2> (x)"},
    {17, "float[1,3,4,5] x", "", "y = SpaceToDepth <blocksize = 2> (x)"},
    {17, "float[3,4,5] x", "", "y = SpaceToDepth <blocksize = 2> (x)"},
    {17, "float[1,3,4,4] x", "float[3] s = {1, 1, 2}", "y = Resize (x, , s)"},
    {17, "float[1,3,4,4] x", "int64[5] s = {1, 1, 2, 2, 2}", "y = Resize (x, , , s)"},
    {18, "float[1,3,4,4] x", "int64[2] s = {2, 2}", "y = Resize <axes = [2, 7]> (x, , , s)"},
    {17, "float[2,5,3] x, float[4] s", "", "y = BatchNormalization (x, s, s, s, s)"},
    {17, "float[2,5,3] x, float[5] s, float[4] m", "", "y = BatchNormalization (x, s, s, m, s)"},
    {17, "float[2,5,3] x, float[5,1] s", "", "y = BatchNormalization (x, s, s, s, s)"},
    {17, "float[2,5,3] x, float[4] s", "", "y = InstanceNormalization (x, s, s)"},
    {17, "float[2,5,3] x, float[5] s, float[1] b", "", "y = InstanceNormalization (x, s, b)"},
    {17, "float[2,50] x, float[49] s", "", "y = LayerNormalization (x, s)"},
    {17, "float[2,50] x, float[50] s, float[3] b", "", "y = LayerNormalization (x, s, b)"},
    {17, "float[2,50] x, float[50] s", "", "y = LayerNormalization <axis = 2> (x, s)"},
    {17, "float[2,50] x, float[1,2,50] s", "", "y = LayerNormalization (x, s)"},
    {23, "float[2,50] x, float[3] s", "", "y = RMSNormalization (x, s)"},
    {23, "float[2,50] x, float[50] s", "", "y = RMSNormalization <axis = -3> (x, s)"},
    {21, "float[2,6,4] x, float[2] s", "", "y = GroupNormalization <num_groups = 2> (x, s, s)"},
    {18, "float[2,6,4] x, float[6] s", "", "y = GroupNormalization <num_groups = 2> (x, s, s)"},
    {21, "float[2,6,4] x, float[6] s", "", "y = GroupNormalization <num_groups = 4> (x, s, s)"},
    {21, "float[2,6,4] x, float[6] s, float[5] b", "",
     "y = GroupNormalization <num_groups = 2> (x, s, b)"},
    {17, "float[2,3] x", "", "y = Softmax <axis = 2> (x)"},
    {17, "float[2,3] x", "", "y = LogSoftmax <axis = -3> (x)"},
    {17, "float[2,3] x", "", "y = Hardmax <axis = 5> (x)"},
    {17, "int64[2,3] x", "", "y = Softmax (x)"},
    {17, "float[2,3] x", "", "y = LpNormalization <axis = 2> (x)"},
    {17, "float[2,400] x, int64[2] l, float[4] w", "", "y = SoftmaxCrossEntropyLoss (x, l, w)"},
    {17, "float[2,5] x, int64[3] l", "", "y = SoftmaxCrossEntropyLoss (x, l)"},
    {17, "float[2,5] x, float[2] l", "", "y = SoftmaxCrossEntropyLoss (x, l)"},
    {17, "float[2,5,7] x, int64[2,3] l", "", "y = NegativeLogLikelihoodLoss (x, l)"},
    {17, "float[2,5,7] x, int64[2] l", "", "y = NegativeLogLikelihoodLoss (x, l)"},
    {17, "float[2,5] x, int64[2] l, float[6] w", "", "y = NegativeLogLikelihoodLoss (x, l, w)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r, float[1,5] b", "",
     "y = LSTM <hidden_size = 4> (x, w, r, b)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r", "",
     "y = LSTM <hidden_size = 5> (x, w, r)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r", "",
     "y = LSTM <hidden_size = 4, direction = \"bidirectional\"> (x, w, r)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r, int32[3] n", "",
     "y = LSTM <hidden_size = 4> (x, w, r, , n)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r, float[1,3,4] h", "",
     "y = LSTM <hidden_size = 4> (x, w, r, , , h)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r, float[1,2,5] h", "",
     "y = LSTM <hidden_size = 4> (x, w, r, , , h)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r, float[1,2,4] h, float[1,1,4] c", "",
     "y = LSTM <hidden_size = 4> (x, w, r, , , h, c)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r, float[1,8] p", "",
     "y = LSTM <hidden_size = 4> (x, w, r, , , , , p)"},
    {17, "float[3,2,8] x, float[1,16,7] w, float[1,16,4] r", "",
     "y = LSTM <hidden_size = 4> (x, w, r)"},
    {17, "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r", "",
     "y = GRU <hidden_size = 4> (x, w, r)"},
    {17, "float[3,2,8] x, float[1,12,8] w, float[1,12,4] r, float[1,12] b", "",
     "y = GRU <hidden_size = 4> (x, w, r, b)"},
    {17, "float[3,2,8] x, float[1,4,8] w, float[1,4,3] r", "",
     "y = RNN <hidden_size = 4> (x, w, r)"},
    {17, "float[3,8] x, float[1,4,8] w, float[1,4,4] r", "", "y = RNN <hidden_size = 4> (x, w, r)"},
    {23, "float[2,3,8] q, float[2,3,8] k, float[1,3,8] v", "",
     "y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)"},
    {23, "float[2,2,3,4] q, float[2,2,3,5] k, float[2,2,3,4] v", "", "y = Attention (q, k, v)"},
    {23, "float[2,2,3,4] q, float[2,2,5,4] k, float[2,2,3,4] v", "", "y = Attention (q, k, v)"},
    {23, "float[1,2,3,8] x, float[4,3] c, int64[1,3] i", "", "y = RotaryEmbedding (x, c, c, i)"},
    {23, "float[1,3,16] x, float[4,4] c, int64[1,3] i", "", "y = RotaryEmbedding (x, c, c, i)"},
    {24, "float[2,1,4,5] x, float[2,1,5,5] u, int64[2] i", "", "y = TensorScatter (x, u, i)"},
    {24, "float[2,1,4,5] x, float[2,1,1,4] u, int64[2] i", "", "y = TensorScatter (x, u, i)"},
    {24, "float[2,1,4,5] x, float[2,1,1,5] u, int64[3] i", "", "y = TensorScatter (x, u, i)"},
    {19, "float[1,3,4,4] x, float[4,3,2,2] w, float[1,6,3,3] o", "", "y = DeformConv (x, w, o)"},
    {19, "float[1,3,4,4] x, float[4,3,2,2] w, float[1,8,3,4] o", "", "y = DeformConv (x, w, o)"},
    {23, "float[2,3] q, float[2,3] k, float[2,3] v", "", "y = Attention (q, k, v)"},
    {23, "float[1,2,3,8] x, float[3,4] c, float[3,3] s, int64[2,3] i", "",
     "y = RotaryEmbedding (x, c, s, i)"},
    {17, "float[4,4] x, int64[10,10] i, float[2,2] u", "", "y = ScatterElements (x, i, u)"},
    {17, "float[4,4] x, int64[4,5] i, float[4,5] u", "", "y = ScatterElements (x, i, u)"},
    {17, "float[4,4] x, int64[4] i, float[4] u", "", "y = ScatterElements (x, i, u)"},
    {17, "float[4,4] x, int64[2,2] i, double[2,2] u", "", "y = ScatterElements (x, i, u)"},
    {17, "float[4,4] x, int64[2,2] i, float[2,2] u", "",
     "y = ScatterElements <axis = 2> (x, i, u)"},
    {17, "float[4,1000] x, int64[2,1] i, float[2,2] u", "", "y = ScatterND (x, i, u)"},
    {17, "float[4,4] x, int64[2,3] i, float[2] u", "", "y = ScatterND (x, i, u)"},
    {17, "float[4,4] x, int64 i, float[4] u", "", "y = ScatterND (x, i, u)"},
    {17, "float[4,4] x, int64[4,1000] i", "", "y = GatherElements (x, i)"},
    {17, "float[4,4] x, int64[4] i", "", "y = GatherElements (x, i)"},
    {17, "float[4,4] x, float[4,4] i", "", "y = GatherElements (x, i)"},
    {17, "float[4,4] x, int64[2] i", "", "y = Gather <axis = 2> (x, i)"},
    {17, "float x, int64[2] i", "", "y = Gather (x, i)"},
    {17, "float[4,4] x, float[2] i", "", "y = Gather (x, i)"},
    {17, "float[4,10,10] x, int64[1000,2,1] i", "", "y = GatherND <batch_dims = 1> (x, i)"},
    {17, "float[4,10,10] x, int64[4,2,3] i", "", "y = GatherND <batch_dims = 1> (x, i)"},
    {17, "float[4,10] x, int64[4,1] i", "", "y = GatherND <batch_dims = -1> (x, i)"},
    {17, "float[4,10] x, int64[4,1] i", "", "y = GatherND <batch_dims = 2> (x, i)"},
    {17, "float[4,10] x, bool[4,1] i", "", "y = GatherND (x, i)"},
    {17, "int64[4] x", "int64 d = {9}, float[1] v = {1}", "y = OneHot (x, d, v)"},
    {17, "int64[4] x", "int64[2] d = {9, 9}, float[2] v = {0, 1}", "y = OneHot (x, d, v)"},
    {17, "int64[4] x", "int64 d = {9}, float[2] v = {0, 1}", "y = OneHot <axis = 3> (x, d, v)"},
    {17, "float[2,3] x", "int64[1] k = {4}", "y, i = TopK (x, k)"},
    {17, "float[2,3] x", "int64[1] k = {-1}", "y, i = TopK (x, k)"},
    {17, "float[2,3] x", "int64[2] k = {1, 1}", "y, i = TopK (x, k)"},
    {17, "float[2,3] x", "int64[1] k = {1}", "y, i = TopK <axis = 2> (x, k)"},
    {17, "float[2,3] x", "", "y = ArgMax <axis = 2> (x)"},
    {17, "float[2,3] x", "bool[4] c = {1, 1, 1, 1}", "y = Compress <axis = 0> (x, c)"},
    {17, "float[2,3] x", "", "y = Transpose <perm = [1, 1]> (x)"},
    {17, "float[2,3] x", "", "y = Transpose <perm = [0, 1, 2]> (x)"},
    {17, "float[2,3] x", "", "y = Transpose <perm = [0, 100000]> (x)"},
    {17, "float[2,3] x", "", "y = Transpose <perm = [-2, -1]> (x)"},
    {17, "float[2,3] x, float[2,4] z", "", "y = Concat <axis = 0> (x, z)"},
    {17, "float[2,3] x, float[2,3] z", "", "y = Concat <axis = 2> (x, z)"},
    {17, "float[2,3] x, double[2,3] z", "", "y = Concat <axis = 0> (x, z)"},
    {17, "float[2,6] x", "int64[2] n = {2, 2}", "y, z = Split <axis = 1> (x, n)"},
    {17, "float[2,6] x", "int64[3] n = {2, 2, 2}", "y, z = Split <axis = 1> (x, n)"},
    {17, "float[2,6] x", "int64[2] n = {-2, 8}", "y, z = Split <axis = 1> (x, n)"},
    {18, "float[2,6] x", "", "y, z = Split <axis = 1> (x)"},
    {17, "float[2,7] x", "", "y, z = Split <axis = 1> (x)"},
    {18, "float[2,1] x", "", "y, z, u = Split <axis = 1, num_outputs = 3> (x)"},
    {18, "float[2,6] x", "", "y, z = Split <axis = 1, num_outputs = 3> (x)"},
    {17, "float[4,5] x", "int64[1] s = {0}, int64[2] e = {2, 2}", "y = Slice (x, s, e)"},
    {17, "float[4,5] x", "int64[1] s = {0}, int64[2] a = {0, 1}", "y = Slice (x, s, s, a)"},
    {17, "float[4,5] x", "int64[1] s = {0}, int64[1] a = {2}", "y = Slice (x, s, s, a)"},
    {17, "float[4,5] x", "int64[2] s = {0, 0}, int64[2] a = {1, 1}", "y = Slice (x, s, s, a)"},
    {17, "float[4,5] x", "int64[3] s = {0, 0, 0}", "y = Slice (x, s, s)"},
    {17, "float[4,5] x", "int64[1] s = {0}, int64[1] a = {0}, int64[1] t = {0}",
     "y = Slice (x, s, s, a, t)"},
    {17, "float[4,5] x", "float[2] s = {0, 0}", "y = Slice (x, s, s)"},
    {17, "float[4,5] x", "int64[3] p = {1, 1, 1}", "y = Pad (x, p)"},
    {17, "float[4,5] x", "int64[4] p = {-3, 0, -3, 0}", "y = Pad (x, p)"},
    {17, "float[4,5] x", "int64[4] p = {1, 1, 1, 1}, float[2] c = {1, 1}", "y = Pad (x, p, c)"},
    {18, "float[4,5] x", "int64[4] p = {1, 1, 1, 1}, int64[1] a = {0}", "y = Pad (x, p, , a)"},
    {18, "float[4,5] x", "int64[2] p = {1, 1}, int64[1] a = {2}", "y = Pad (x, p, , a)"},
    {17, "float[2,3] x", "int64[3] n = {1, 2, 3}", "y = Tile (x, n)"},
    {17, "float[2,3] x", "int64[2] n = {1, -2}", "y = Tile (x, n)"},
    {17, "float x, int64[2] n", "", "y = Tile (x, n)"},
    {17, "float[1,3,4,4] x, float[3,5,3,3] w", "",
     "y = ConvTranspose <output_padding = [1, 1]> (x, w)"},
    {23, "float[2,2,3,4] q, float[2,3,8] k", "", "y = Attention <kv_num_heads = 2> (q, q, k)"},
    {23, "float[1,2,3,8] x, float[5,4] c, float[6,4] d, int64[1,3] i", "",
     "y = RotaryEmbedding (x, c, d, i)"},
    {17, "float[2,3] x, float[1] q, int64[2] l", "", "y = Dropout (x, l)"},
    {17, "bool[2,3] x", "", "y = IsNaN (x)"},
    {17, "float[2,3] x", "int64[2] n = {2, 4}", "y = Expand (x, n)"},
    {17, "float[2,3] x", "int64[2] n = {2, -1}", "y = Expand (x, n)"},
    {17, "float[2,3] x", "int64[2] n = {4, 2}", "y = Reshape (x, n)"},
    {17, "float[2,3] x", "int64[2] n = {-1, -1}", "y = Reshape (x, n)"},
    {17, "float[2,3] x", "int64[2] n = {-2, 3}", "y = Reshape (x, n)"},
    {17, "float[2,3] x", "int64[1,2] n = {2, 3}", "y = Reshape (x, n)"},
    {17, "float[2,3] x", "int64[1] a = {0}", "y = Squeeze (x, a)"},
    {17, "float[1,3] x", "int64[2] a = {0, 5}", "y = Squeeze (x, a)"},
    {17, "float[2,3] x", "int64[2] a = {0, 0}", "y = Unsqueeze (x, a)"},
    {17, "float[2,3] x", "int64[1] a = {5}", "y = Unsqueeze (x, a)"},
    {17, "float[2,3] x", "", "y = Flatten <axis = 3> (x)"},
    {17, "float[4,100] x, int64[3] n", "",
     "y = ReverseSequence <time_axis = 0, batch_axis = 1> (x, n)"},
    {17, "float[4,3] x, int64[3] n", "",
     "y = ReverseSequence <time_axis = 1, batch_axis = 1> (x, n)"},
    {17, "float[4,3] x, int64[3] n", "",
     "y = ReverseSequence <time_axis = 2, batch_axis = 1> (x, n)"},
    {17, "float[3] x", "", "y = Trilu (x)"},
    {17, "float[2,3] x", "int64[2] k = {0, 1}", "y = Trilu (x, k)"},
    {17, "float[2,3] x", "int64[2] a = {0, 1}", "y = CumSum (x, a)"},
    {17, "float[2,3] x", "int64 a = {2}", "y = CumSum (x, a)"},
    {17, "float[3] x", "", "y = EyeLike (x)"},
    {17, "float[2] a, float b", "", "y = Range (a, b, b)"},
    {17, "float a, double b", "", "y = Range (a, b, b)"},
    {18, "float[4,5] x", "int64[1] n = {3}", "y = CenterCropPad (x, n)"},
    {18, "float[4,5] x", "int64[1] n = {3}", "y = CenterCropPad <axes = [2]> (x, n)"},
    {17, "float[2,3] x", "int64[1] a = {2}", "y = ReduceSum (x, a)"},
    {17, "float[2,3] x", "", "y = ReduceMean <axes = [-3]> (x)"},
    {18, "float[2,3] x", "int64[2,1] a = {0, 1}", "y = ReduceMax (x, a)"},
    {17, "float[2,3] x", "float[1] a = {0}", "y = ReduceSum (x, a)"},
    {17, "float[1,8] x", "", "y = DFT <axis = 3> (x)"},
    {17, "float[1,8,1] x, float[4] w", "int64 s = {2}, int64 n = {5}", "y = STFT (x, s, w, n)"},
    {17, "float[2,3] x, float[4] s", "", "y = QuantizeLinear (x, s)"},
    {17, "uint8[2,3] x, float[4] s", "", "y = DequantizeLinear (x, s)"},
    {17, "uint8[2,4] a, uint8[3,2] b", "", "y = MatMulInteger (a, b)"},
    {17, "uint8[1,2,4,4] x, uint8[3,1,2,2] w", "", "y = ConvInteger (x, w)"},
    {17, "float[2,3] x", "", "y = Add (x)"},
    {17, "float[2,3] x", "", "y = Concat <axis = 0> (x, , x)"},
    {17, "float[2,3] x", "", "y = Sum (x, , x)"},
    {17, "float[2,3] x", "", "y = Relu (x, x)"},
    {17, "float[2,3] x", "", "y = MatMul (x, )"},
    {17, "float[2,3] x", "", "y, z = Relu (x)"},
};
static const row accepted[] = {
    {17, "float[2,3] x, float[3] b", "", "y = Add (x, b)"},
    {17, "float[2,1] x, float[1,3] b", "", "y = Mul (x, b)"},
    {17, "float[2,3] x, bool[3] c", "", "y = Where (c, x, x)"},
    {17, "float[2,3] x, float[1] s", "", "y = PRelu (x, s)"},
    {17, "float[2,3] x, float a", "", "y = Clip (x, a)"},
    {17, "float[2,4] x, float[4,30] w, float[30] c", "", "y = Gemm (x, w, c)"},
    {17, "float[2,4] x, float[30,4] w, float[2,1] c", "", "y = Gemm <transB = 1> (x, w, c)"},
    {17, "float[2,2,4] x, float[4,3] w", "", "y = MatMul (x, w)"},
    {17, "float[1,4,4,4] x, float[6,2,3,3] w, float[6] b", "",
     "y = Conv <group = 2, pads = [1, 1, 1, 1], strides = [2, 2], kernel_shape = [3, 3]> (x, w, "
     "b)"},
    {17, "float[1,4,4] x, float[4,3,2] w, float[6] b", "",
     "y = ConvTranspose <group = 2> (x, w, b)"},
    {17, "float[1,3,4,4] x", "", "y = MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (x)"},
    {17, "float[2,5,3] x, float[5] s", "", "y = BatchNormalization (x, s, s, s, s)"},
    {17, "float[2,5,3] x, float[5] s", "", "y = InstanceNormalization (x, s, s)"},
    {17, "float[2,50] x, float[50] s", "", "y = LayerNormalization (x, s, s)"},
    {21, "float[2,6,4] x, float[6] s", "", "y = GroupNormalization <num_groups = 2> (x, s, s)"},
    {18, "float[2,6,4] x, float[2] s", "", "y = GroupNormalization <num_groups = 2> (x, s, s)"},
    {17, "float[2,4] x, int64[2] l, float[4] w", "", "y = SoftmaxCrossEntropyLoss (x, l, w)"},
    {17, "float[2,5,7] x, int64[2,7] l", "", "y = NegativeLogLikelihoodLoss (x, l)"},
    {17,
     "float[3,2,8] x, float[1,16,8] w, float[1,16,4] r, float[1,32] b, int32[2] n, float[1,2,4] h, "
     "float[1,12] p",
     "", "y = LSTM <hidden_size = 4> (x, w, r, b, n, h, h, p)"},
    {17, "float[2,3,8] x, float[1,12,8] w, float[1,12,4] r", "",
     "y = GRU <hidden_size = 4, layout = 1> (x, w, r)"},
    {23, "float[2,3,8] q, float[2,5,8] k, float[2,5,8] v", "",
     "y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)"},
    {17, "float[4,4] x, int64[2,2] i, float[2,2] u", "", "y = ScatterElements (x, i, u)"},
    {17, "float[4,10] x, int64[2,1] i, float[2,10] u", "", "y = ScatterND (x, i, u)"},
    {17, "float[4,4] x, int64[9,4] i", "", "y = GatherElements (x, i)"},
    {17, "float[4,10,10] x, int64[4,2,1] i", "", "y = GatherND <batch_dims = 1> (x, i)"},
    {17, "int64[4] x", "int64 d = {9}, float[2] v = {0, 1}", "y = OneHot (x, d, v)"},
    {17, "float[2,3] x", "int64[1] k = {3}", "y, i = TopK (x, k)"},
    {17, "float[2,3] x", "", "y = Transpose <perm = [1, 0]> (x)"},
    {17, "float[2,6] x", "int64[2] n = {2, 4}", "y, z = Split <axis = 1> (x, n)"},
    {17, "float[4,5] x", "int64[1] s = {0}, int64[1] e = {2}, int64[1] a = {1}",
     "y = Slice (x, s, e, a)"},
    {17, "float[4,5] x", "int64[4] p = {1, 0, -1, 2}, float c = {1}", "y = Pad (x, p, c)"},
    {17, "float[4,3] x, int64[4] n", "",
     "y = ReverseSequence <time_axis = 1, batch_axis = 0> (x, n)"},
    {17, "float[1,8,4,4] x", "", "y = DepthToSpace <blocksize = 2> (x)"},
    {17, "float[1,3,4,4] x, float[1,5,5,2] q", "", "y = GridSample (x, q)"},
    {17, "float[2,3,3] x", "", "y = Det (x)"},
    {17, "float[2,3] x", "int64[1] a = {-1}", "y = ReduceSum (x, a)"},
};
enum {
    NREFUSED = sizeof refused / sizeof *refused,
    NACCEPTED = sizeof accepted / sizeof *accepted
};

static mtbal_model *parse(const row *r)
{
    char text[2048];
    mtbal_diag diag = {0};
    snprintf(text, sizeof text,
             "<ir_version: 10, opset_import: [\"\" : %d]>\ng (%s) => (y) %s%s%s { %s }", r->opset,
             r->operands, *r->constants ? "<" : "", r->constants, *r->constants ? ">" : "",
             r->node);
    mtbal_model *model = mtbal_parse_model(text, &diag);
    ck_assert_msg(model != NULL, "%s: %s: %s", r->node, diag.where, diag.what);
    return model;
}

/* Every input becomes a constant of ones or, of integers, zeros. */
static void make_constant(mtbal_model *model)
{
    mtbal_graph *g = model->graph;
    for (int i = 0; i < g->ninputs; i++) {
        mtbal_value *v = g->inputs[i];
        int64_t dims[32], one = 1;
        for (int d = 0; d < v->type.rank; d++)
            dims[d] = v->type.dims[d].size;
        mtbal_tensor *t = mtbal_tensor_new(model, v->type.dtype, v->type.rank, dims, NULL);
        ck_assert(t != NULL && v->type.rank <= 32);
        if (v->type.dtype == MTBAL_FLOAT)
            for (int64_t k = 0; k < t->count; k++)
                ((float *)mtbal_tensor_bytes(t))[k] = (float)one;
        v->is_input = false;
        ck_assert_int_eq(mtbal_add_initializer(g, v, t), MTBAL_OK);
    }
    g->ninputs = 0;
}

static void expect_refusal(const row *r, const char *how, mtbal_status status,
                           const mtbal_diag *diag)
{
    ck_assert_msg(status == MTBAL_INVALID || status == MTBAL_UNSUPPORTED, "%s (%s), %s: status %d",
                  r->node, r->operands, how, (int)status);
    ck_assert_msg(strstr(diag->where, "y") || strstr(diag->what, "y"),
                  "%s, %s: the node is not named: %s: %s", r->node, how, diag->where, diag->what);
    ck_assert_msg(*diag->what, "%s, %s: no message", r->node, how);
}

START_TEST(test_refused_by_inference)
{
    const row *r = &refused[_i];
    mtbal_diag diag = {0};
    mtbal_model *model = parse(r);
    mtbal_status status = mtbal_verify(model, &diag);
    if (status == MTBAL_OK)
        status = mtbal_infer_graph(model->graph, &diag);
    expect_refusal(r, "inferred", status, &diag);
    mtbal_model_free(model);
}
END_TEST

START_TEST(test_refused_by_lowering)
{
    const row *r = &refused[_i / 2];
    mtbal_diag diag = {0};
    mtbal_plan *plan = NULL;
    mtbal_model *model = parse(r);
    if (_i % 2)
        make_constant(model);
    expect_refusal(r, _i % 2 ? "lowered, of constants" : "lowered",
                   mtbal_lower(model, NULL, &plan, &diag), &diag);
    ck_assert(plan == NULL);
    mtbal_model_free(model);
}
END_TEST

/* Sizes that only lowering is told. */
START_TEST(test_refused_when_bound)
{
    static const struct {
        const char *inputs, *node;
        mtbal_bind x, z;
    } rows[] = {
        {"float[a,b] x, float[c] z", "y = PRelu (x, z)", {"x", 2, {2, 5}}, {"z", 1, {3}}},
        {"float[a,b,c] x, float[d] z",
         "y = InstanceNormalization (x, z, z)",
         {"x", 3, {1, 9, 2}},
         {"z", 1, {4}}},
        {"float[a,b] x, int64[c,d] z",
         "y = GatherElements (x, z)",
         {"x", 2, {4, 4}},
         {"z", 2, {4, 99}}},
        {"float[a,b] x, float[c,d] z", "y = Gemm (x, z)", {"x", 2, {2, 4}}, {"z", 2, {5, 3}}},
        {"float[a,b] x, int64[c,d] z",
         "y = ScatterElements (x, z, x)",
         {"x", 2, {4, 4}},
         {"z", 2, {9, 9}}},
        {"float[a,b] x, int64[c] z",
         "y = SoftmaxCrossEntropyLoss (x, z)",
         {"x", 2, {4, 4}},
         {"z", 1, {3}}},
        {"float[a,b] x, int64[c] z",
         "y = ReverseSequence (x, z)",
         {"x", 2, {4, 40}},
         {"z", 1, {3}}},
        {"float[a,b] x, bool[c] z", "y = Where (z, x, x)", {"x", 2, {4, 40}}, {"z", 1, {3}}},
        {"float[a,b,c] x, float[d,e,f] z",
         "y = Conv (x, z)",
         {"x", 3, {1, 4, 9}},
         {"z", 3, {2, 3, 3}}},
        {"float[a,b] x, float[c] z",
         "y = LayerNormalization (x, z)",
         {"x", 2, {2, 9}},
         {"z", 1, {3}}},
    };
    if (_i >= (int)(sizeof rows / sizeof *rows))
        return;
    const row r = {17, rows[_i].inputs, "", rows[_i].node};
    const mtbal_bind binds[] = {rows[_i].x, rows[_i].z};
    mtbal_lower_options options = {.nbinds = 2, .binds = binds, .noutputs = -1};
    mtbal_diag diag = {0};
    mtbal_plan *plan = NULL;
    mtbal_model *model = parse(&r);
    ck_assert_int_eq(mtbal_infer_graph(model->graph, &diag), MTBAL_OK);
    mtbal_model_free(model);
    model = parse(&r);
    expect_refusal(&r, "bound", mtbal_lower(model, &options, &plan, &diag), &diag);
    mtbal_model_free(model);
}
END_TEST

/* The same operators with operands that fit: they run, of inputs and of constants. */
START_TEST(test_accepted)
{
    const row *r = &accepted[_i / 2];
    mtbal_diag diag = {0};
    mtbal_plan *plan = NULL;
    mtbal_instance *instance = NULL;
    mtbal_model *model = parse(r);
    if (_i % 2)
        make_constant(model);
    mtbal_status status = mtbal_verify(model, &diag);
    if (status == MTBAL_OK)
        status = mtbal_lower(model, NULL, &plan, &diag);
    ck_assert_msg(status == MTBAL_OK, "%s: %s: %s", r->node, diag.where, diag.what);
    ck_assert_int_eq(mtbal_instance_new(plan, 1, &instance, &diag), MTBAL_OK);
    ck_assert_msg(mtbal_instance_run(instance, 1) == MTBAL_OK, "%s", r->node);
    mtbal_instance_free(instance);
    mtbal_plan_free(plan);
    mtbal_model_free(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("misfit");
    TCase *tests = tcase_create("operands");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, test_refused_by_inference, 0, NREFUSED);
    tcase_add_loop_test(tests, test_refused_by_lowering, 0, 2 * NREFUSED);
    tcase_add_loop_test(tests, test_refused_when_bound, 0, 10);
    tcase_add_loop_test(tests, test_accepted, 0, 2 * NACCEPTED);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
