/// From the common flags to a model that is loaded on its devices.
#ifndef TOOLS_NIBBLE_ENGINE_SETUP_H
#define TOOLS_NIBBLE_ENGINE_SETUP_H

#include "tools/nibble/options.h"
#include "tools/nibble/progress.h"

/// What engines are made with: the devices that the flags ask for, GPUs with the CPU for the layers
/// that they do not get, or the CPU alone. Must outlive engine_load of its engines.
struct setup {
    const struct options *options;
    struct nib_device *gpus[MAX_GPUS];
    float shares[MAX_GPUS + 1]; ///< of the layers on GPUs, where --split was given
    uint32_t n_gpus;
    struct nib_device *cpu;    ///< or NULL where nothing can run there
    uint32_t gpu_layers;       ///< GPU_LAYERS_AUTO: all
    uint32_t max_sessions;     ///< 0: 1
    bool fallback;             ///< the CPU takes over what a GPU cannot do
    bool fit;                  ///< GPUs get as many layers as they have memory for
    struct nib_error left_out; ///< why a GPU is left out, where its status is not NIB_OK
    struct progress progress, check_progress;
};

/// Opens the devices; the options are borrowed. Errors: not found, unsupported, argument.
enum nib_status setup_open(const struct options *options, struct setup *out_setup,
                           struct nib_error *err);
void setup_close(struct setup *setup);

/// Opens the model at `path`, showing progress. Errors: those of nib_model_open.
enum nib_status model_open(const char *path, struct nib_model **out_model, struct nib_error *err);

/// Makes the engine for `model` with `context` tokens (0: the default); weights come with
/// engine_load, so that what is wrong with the rest of the command shows before the long work.
/// Errors: those of nib_engine_create.
enum nib_status engine_create(struct nib_model *model, struct setup *setup, uint32_t context,
                              struct nib_engine **out_engine, struct nib_error *err);
/// Loads the weights, showing progress. Errors: those of nib_engine_prepare.
enum nib_status engine_load(struct nib_engine *engine, struct setup *setup, struct nib_error *err);

/// Makes a session: the one saved in the file of --session, or an empty one. Errors: those of
/// nib_session_load and nib_session_create; io where the file of --save-session cannot be made.
enum nib_status session_open(struct nib_engine *engine, const struct options *options,
                             struct nib_session **out_session, struct nib_error *err);

#endif
