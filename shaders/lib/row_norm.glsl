// 1 / the root of the mean square of a row, summed in the same order whatever the size of the
// workgroup. Needs norm_quad(q): four numbers of the row, zeros beyond its end.
#ifndef SHADERS_LIB_ROW_NORM_GLSL
#define SHADERS_LIB_ROW_NORM_GLSL

#define NORM_SLOTS 256u // each sums every 256th quad
#define NORM_JOINED 16u // that are left of them before the last sum

shared float norm_sums[NORM_SLOTS];

// All invocations of a workgroup call it, once.
float find_norm_factor(uint thread, uint n_threads, uint n_cols, float epsilon)
{
    uint n_quads = (n_cols + 3u) / 4u;
    for (uint slot = thread; slot < NORM_SLOTS; slot += n_threads) {
        float sum = 0.0;
        for (uint q = slot; q < n_quads; q += NORM_SLOTS) {
            vec4 v = norm_quad(q);
            sum += dot(v, v);
        }
        norm_sums[slot] = sum;
    }
    barrier();
    for (uint i = NORM_JOINED; thread < NORM_JOINED && i < NORM_SLOTS; i += NORM_JOINED)
        norm_sums[thread] += norm_sums[thread + i];
    barrier();
    float all = 0.0;
    for (uint i = 0u; i < NORM_JOINED; i++)
        all += norm_sums[i];
    return 1.0 / sqrt(all / float(n_cols) + epsilon);
}

#endif
