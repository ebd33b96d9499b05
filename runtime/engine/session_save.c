#include "runtime/base/bytes.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/engine/placement.h"
#include "runtime/engine/session_file.h"
#include <stdlib.h>

static struct nib_session_shape shape_of(const struct nib_engine *engine)
{
    return (struct nib_session_shape){
        .plan = engine->plan,
        .reach = engine->reach,
        .model = nib_session_model_print(engine->model->source),
        .cache = nib_session_cache_print(engine->plan),
        .precise = engine->precise,
    };
}

/// Returns the placement in which the cache of `kv_layer` lies.
static const struct nib_part *part_of(const struct nib_engine *engine, uint32_t kv_layer)
{
    const struct nib_plan *plan = engine->plan;
    uint32_t segment = 0;
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        if (plan->ops[i].kind == NIB_OP_KV_STORE && plan->ops[i].kv_store.kv_layer == kv_layer)
            segment = plan->ops[i].segment;
    }
    uint32_t part = 0;
    while (segment - engine->parts[part].first_segment >= engine->parts[part].n_segments)
        part++;
    return &engine->parts[part];
}

/// The page of the session's table that is number `index` of `run`, of layer `kv_layer`.
static struct nib_kv_page page_at(const struct nib_session *session, uint32_t kv_layer,
                                  const struct nib_session_run *run, uint32_t index)
{
    uint32_t place = nib_kv_place(&run->places, index);
    const struct nib_kv_pool *pool = session->engine->pool;
    uint32_t table = nib_kv_pool_offset(pool, session->table);
    return (struct nib_kv_page){
        .kv_layer = kv_layer,
        .page = nib_kv_pool_tables(pool)[table + run->kv_class * nib_kv_pool_stride(pool) + place],
        .is_recent = run->is_recent,
    };
}

/// Returns how many of the session's tokens are computed in whole pages and have all pages that are
/// needed to go on from there. The rest is computed anew: the end of a page holds bytes of others.
static uint32_t savable(const struct nib_session *session)
{
    uint32_t n = session->n_computed - session->n_computed % NIB_KV_PAGE_TOKENS;
    return nib_kv_pool_can_resume(session->engine->pool, session->table, n) ? n : 0;
}

/// Bytes on their way into a file.
struct sink {
    struct nib_file_writer *writer;
    uint64_t checksum;
};

static enum nib_status put(struct sink *sink, const void *bytes, size_t size, struct nib_error *err)
{
    sink->checksum = nib_session_checksum(sink->checksum, bytes, size);
    return nib_file_writer_append(sink->writer, bytes, size, err);
}

static enum nib_status put_tokens(struct sink *sink, const struct nib_session *session,
                                  struct nib_error *err)
{
    uint8_t pair[8] = {0};
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < session->n_tokens && status == NIB_OK; i += 2) {
        bool is_last = i + 1 == session->n_tokens;
        nib_store_u32(pair, (uint32_t)session->tokens[i]);
        nib_store_u32(pair + 4, is_last ? 0 : (uint32_t)session->tokens[i + 1]);
        status = put(sink, pair, sizeof pair, err);
    }
    return status;
}

/// Writes the pages of `run` of layer `kv_layer`.
static enum nib_status put_run(struct sink *sink, const struct nib_session *session,
                               uint32_t kv_layer, const struct nib_session_run *run,
                               struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_part *part = part_of(session->engine, kv_layer);
    uint8_t *bytes = calloc(run->page_size ? run->page_size : 1, 1);
    if (!bytes)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < nib_kv_count(&run->places) && status == NIB_OK; i++) {
        struct nib_kv_page page = page_at(session, kv_layer, run, i);
        status = part->device->backend->kv_export(part->instance, page, bytes, err);
        if (status == NIB_OK)
            status = put(sink, bytes, run->page_size, err);
    }
    free(bytes);
    return status;
}

static enum nib_status put_pages(struct sink *sink, const struct nib_session *session,
                                 const struct nib_session_shape *shape, uint32_t n_computed,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < 2 * shape->plan->n_kv_layers && status == NIB_OK; i++) {
        struct nib_session_run run = nib_session_find_run(shape, i / 2, i % 2, n_computed);
        status = put_run(sink, session, i / 2, &run, err);
    }
    return status;
}

/// Writes the session with the pages of its first `n_computed` tokens.
static enum nib_status save(const struct nib_session *session, uint32_t n_computed,
                            const char *path, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct sink sink = {0};
    struct nib_session_shape shape = shape_of(session->engine);
    struct nib_session_content content = {.n_tokens = session->n_tokens, .n_computed = n_computed};
    uint8_t header[NIB_SESSION_HEADER_SIZE];
    uint8_t checksum[8];
    nib_session_write_header(&shape, &content, header);
    NIB_TRY(nib_file_writer_open(path, &sink.writer, err));
    NIB_TRY(nib_file_writer_append(sink.writer, header, NIB_SESSION_CHECKED, err));
    NIB_TRY(put(&sink, header + NIB_SESSION_CHECKED, sizeof header - NIB_SESSION_CHECKED, err));
    NIB_TRY(put_tokens(&sink, session, err));
    NIB_TRY(put_pages(&sink, session, &shape, content.n_computed, err));
    nib_store_u64(checksum, sink.checksum);
    NIB_TRY(
        nib_file_writer_patch(sink.writer, NIB_SESSION_CHECKSUM, checksum, sizeof checksum, err));
    return nib_file_writer_commit(&sink.writer, err);

fail:
    nib_file_writer_destroy(&sink.writer);
    return status;
}

enum nib_status nib_session_save(const struct nib_session *session, const char *path,
                                 struct nib_error *err)
{
    if (!session || !path)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL", session ? "path" : "session");
    enum nib_status status = nib_engine_require_idle(session->engine, err);
    if (status != NIB_OK)
        return status;
    struct nib_error error = {0};
    nib_load_stop(session->engine); // it uses the instances that pages are read from
    status = save(session, savable(session), path, &error);
    if (session->engine->fallback && nib_is_loss(status)) {
        nib_log_write(&session->engine->log, NIB_LOG_WARNING, "%s: saved without its cache: %s",
                      path, error.message);
        status = save(session, 0, path, &error);
    }
    if (status != NIB_OK && err)
        *err = error;
    return status;
}

static enum nib_status get_pages(const struct nib_session *session,
                                 const struct nib_session_shape *shape,
                                 const struct nib_session_content *content, struct nib_error *err)
{
    const uint8_t *bytes = content->pages;
    for (uint32_t l = 0; l < 2 * shape->plan->n_kv_layers; l++) {
        const struct nib_part *part = part_of(session->engine, l / 2);
        struct nib_session_run run = nib_session_find_run(shape, l / 2, l % 2, content->n_computed);
        for (uint32_t i = 0; i < nib_kv_count(&run.places); i++) {
            struct nib_kv_page page = page_at(session, l / 2, &run, i);
            enum nib_status status =
                part->device->backend->kv_import(part->instance, page, bytes, err);
            if (status != NIB_OK)
                return status;
            bytes += run.page_size;
        }
    }
    return NIB_OK;
}

enum nib_status nib_session_load(struct nib_engine *engine, const char *path,
                                 struct nib_session **out_session, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_file_map map = {0};
    struct nib_session *session = NULL;
    *out_session = NULL;
    if (!engine || !path)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL", engine ? "path" : "engine");
    struct nib_session_shape shape = shape_of(engine);
    struct nib_session_content content;
    NIB_TRY(nib_file_map_open(path, &map, err));
    NIB_TRY(nib_session_parse(&shape, map.data, map.size, path, &content, err));
    NIB_TRY(nib_session_create(engine, &session, err));
    for (uint32_t i = 0; i < content.n_tokens; i++)
        session->tokens[i] = (int32_t)nib_load_u32(content.tokens + (size_t)i * 4);
    session->n_tokens = content.n_tokens;
    NIB_TRY(nib_kv_pool_restore(engine->pool, session->table, content.n_computed, err));
    nib_load_stop(engine); // it uses the instances that pages are written to
    status = get_pages(session, &shape, &content, err);
    if (status == NIB_OK)
        session->n_computed = content.n_computed;
    else if (engine->fallback && nib_is_loss(status))
        nib_session_rewind(session, 0);
    else
        goto fail;
    nib_file_map_close(&map);
    *out_session = session;
    return NIB_OK;

fail:
    nib_session_destroy(&session);
    nib_file_map_close(&map);
    return status;
}
