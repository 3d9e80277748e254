/* lower/fuse.c */
#include "lower/lowering.h"

mtbal_status lower_fuse(lowering *l)
{
    (void)l;
    return MTBAL_OK;
}

mtbal_status lower_emit_fused(lowering *l, mtbal_node *node)
{
    return lower_emit_node(l, node);
}
