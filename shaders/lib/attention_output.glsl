// The end of attention.comp: what a workgroup's invocations have becomes its rows' outputs, or
// parts of them that attention_merge joins.

// Where a row's results go: the output, or three partial ones.
uint out_index(uint row, uint head)
{
    if (gl_NumWorkGroups.z == 1u)
        return row * p.out_stride + p.out_at + head * VALUE_DIM;
    uint n_rows = step.header.n_rows;
    return ((gl_WorkGroupID.z * n_rows + row) * p.n_heads + head) * (VALUE_DIM + 2u) + 2u;
}

// Puts CHUNK quads of each invocation's output into the pool, to be added up over SETS of them.
#ifdef TEXELS
const uint SETS = THREADS / 8u;
void pool_item(uint thread, uint item)
{
    const uint n = 8u / LANES; // invocations of a subgroup that have the same numbers
    uint id = gl_SubgroupInvocationID;
    vec4 own = vec4(0.0);
    [[unroll]] for (uint j = 0u; j < CHUNK; j++) {
        vec4 quad = acc[item * CHUNK + j];
        if (LANES <= 4u)
            quad += subgroupShuffle(quad, id ^ 4u);
        if (LANES <= 2u)
            quad += subgroupShuffle(quad, id ^ 2u);
        if (LANES == 1u)
            quad += subgroupShuffle(quad, id ^ 1u);
        own = id / LANES == j % n ? quad : own;
        uint k = j / n * n + id / LANES;
        if ((j % n + 1u == n || j + 1u == CHUNK) && k <= j)
            pool[k * THREADS + thread / 8u * LANES + id % LANES] = own;
    }
}
#else
const uint SETS = WIDTH;
void pool_item(uint thread, uint item)
{
    [[unroll]] for (uint j = 0u; j < CHUNK; j++)
        pool[j * THREADS + thread] = acc[item * CHUNK + j];
}
#endif

// Puts the invocations' outputs together and writes them, CHUNK quads of each for one row; item i
// is chunk i % N_CHUNKS of row i / N_CHUNKS. Final outputs are divided by the sums of the weights.
void write_item(Tile tile, uint thread, uint item, uint first_head, uint end_head)
{
    uint r = item / N_CHUNKS, c = item % N_CHUNKS;
    uint row = tile.first + r / HEADS, head = first_head + r % HEADS;
    bool is_used = r / HEADS < tile.n && head < end_head, is_final = gl_NumWorkGroups.z == 1u;
    uint to = out_index(row, head);
    float total = totals[ROWS + r], factor = !is_final ? 1.0 : total > 0.0 ? 1.0 / total : 0.0;
    pool_item(thread, item);
    barrier();
    for (uint o = thread; o < CHUNK * LANES; o += THREADS) {
        uint j = (c * CHUNK + o / LANES) * 4u;
        uint d = (j / VALUE_UNIT * LANES + o % LANES) * VALUE_UNIT + j % VALUE_UNIT;
        vec4 quad = vec4(0.0);
        for (uint k = 0u; k < SETS; k++)
            quad += pool[o / LANES * THREADS + k * LANES + o % LANES];
        quad *= factor;
        for (uint i = 0u; i < 4u; i++) {
            if (is_used && d + i < VALUE_DIM && is_final)
                y[to + d + i] = quad[i];
            if (is_used && d + i < VALUE_DIM && !is_final)
                partials[to + d + i] = quad[i];
        }
    }
    barrier();
}

// Finds each row's maximum and sum of all tokens, in totals[r] and totals[ROWS + r], and brings the
// invocations' outputs to that maximum.
void join_rows(Tile tile, uint thread, uint first_head, uint end_head)
{
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        parts[r * THREADS + thread] = most[r];
    barrier();
    for (uint r = thread; r < ROWS; r += THREADS) {
        float top = NIB_ATTENTION_LEAST;
        for (uint k = 0u; k < WIDTH; k++)
            top = max(top, parts[r * THREADS + k * LANES]);
        totals[r] = top;
    }
    barrier();
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        float shrink = exp(most[r] - totals[r]);
        parts[r * THREADS + thread] = sum[r] * shrink;
        [[unroll]] for (uint i = 0u; i < VALUE_QUADS; i++)
            acc[r * VALUE_QUADS + i] *= shrink;
    }
    barrier();
    for (uint r = thread; r < ROWS; r += THREADS) {
        float total = 0.0;
        for (uint k = 0u; k < WIDTH; k++)
            total += parts[r * THREADS + k * LANES];
        totals[ROWS + r] = total;
        uint head = first_head + r % HEADS;
        if (gl_NumWorkGroups.z > 1u && r / HEADS < tile.n && head < end_head) {
            uint to = out_index(tile.first + r / HEADS, head);
            partials[to - 2u] = totals[r];
            partials[to - 1u] = total;
        }
    }
    barrier();
}

#ifdef TEXELS
float most_of_all(float v)
{
    uint id = gl_SubgroupInvocationID;
    v = max(v, subgroupShuffle(v, id ^ 4u));
    v = max(v, subgroupShuffle(v, id ^ 2u));
    return max(v, subgroupShuffle(v, id ^ 1u));
}

float sum_of_all(float v)
{
    uint id = gl_SubgroupInvocationID;
    v += subgroupShuffle(v, id ^ 4u);
    v += subgroupShuffle(v, id ^ 2u);
    return v + subgroupShuffle(v, id ^ 1u);
}

// Adds up two quads over all invocations; invocation i gets number i of the eight. Each takes half
// of what is left and hands the other half to the one that takes that.
float take_number(vec4 low, vec4 high)
{
    uint id = gl_SubgroupInvocationID;
    bool is_high = (id & 4u) != 0u;
    vec4 four = (is_high ? high : low) + subgroupShuffle(is_high ? low : high, id ^ 4u);
    is_high = (id & 2u) != 0u;
    vec2 other = is_high ? four.xy : four.zw;
    vec2 two = (is_high ? four.zw : four.xy) + subgroupShuffle(other, id ^ 2u);
    is_high = (id & 1u) != 0u;
    return (is_high ? two.y : two.x) + subgroupShuffle(is_high ? two.x : two.y, id ^ 1u);
}

// As join_rows and write_item do, without shared memory, where the workgroup is one subgroup.
void write_rows(Tile tile, uint thread, uint first_head, uint end_head)
{
    bool is_final = gl_NumWorkGroups.z == 1u;
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        uint head = first_head + r % HEADS, to = out_index(tile.first + r / HEADS, head);
        bool is_used = r / HEADS < tile.n && head < end_head;
        float top = most_of_all(most[r]), shrink = exp(most[r] - top);
        float total = sum_of_all(sum[r] * shrink);
        shrink *= !is_final ? 1.0 : total > 0.0 ? 1.0 / total : 0.0;
        if (is_used && !is_final && thread == 0u) {
            partials[to - 2u] = top;
            partials[to - 1u] = total;
        }
        [[unroll]] for (uint i = 0u; i < VALUE_QUADS; i += 2u) {
            uint j = r * VALUE_QUADS + i, d = 4u * i + thread;
            float number = take_number(acc[j] * shrink, acc[j + 1u] * shrink);
            if (is_used && d < VALUE_DIM && is_final)
                y[to + d] = number;
            if (is_used && d < VALUE_DIM && !is_final)
                partials[to + d] = number;
        }
    }
}
#endif

// Says that this workgroup, which has no page, has no part in its rows' results.
void leave_nothing(Tile tile, uint thread, uint first_head, uint end_head)
{
    for (uint r = thread; r < ROWS && gl_NumWorkGroups.z > 1u; r += THREADS) {
        uint head = first_head + r % HEADS;
        if (r / HEADS < tile.n && head < end_head) {
            uint to = out_index(tile.first + r / HEADS, head);
            partials[to - 2u] = NIB_ATTENTION_LEAST;
            partials[to - 1u] = 0.0;
        }
    }
}
