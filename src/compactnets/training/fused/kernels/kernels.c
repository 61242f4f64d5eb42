#include "vector.c"
#include "pointwise.c"
#include "depthwise.c"
#include "join.c"
