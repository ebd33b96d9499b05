// A host application in C++17: the public headers, every params struct filled by field, and calls
// that need no model. Returns 0 where all expectations hold.
#include <nibble/nibble.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string>

namespace
{

int failures = 0;

void expect(bool holds, const char *what)
{
    if (!holds) {
        std::fprintf(stderr, "does not hold: %s\n", what);
        failures++;
    }
}

template <typename Params> Params params_of()
{
    Params params = {};
    params.struct_size = sizeof(params);
    static_assert(offsetof(Params, struct_size) == 0, "every params struct begins with its size");
    return params;
}

void check_version()
{
    const std::string version = std::to_string(NIB_VERSION_MAJOR) + "." +
                                std::to_string(NIB_VERSION_MINOR) + "." +
                                std::to_string(NIB_VERSION_PATCH);
    expect(version == nib_version(), "header and library are of one version");
    expect(std::strlen(nib_status_name(NIB_OK)) > 0, "success has a name");
    expect(std::strlen(nib_status_name(static_cast<nib_status>(9999))) > 0,
           "a value that is no status has a name");
}

void check_missing_model()
{
    const nib_model_params params = params_of<nib_model_params>();
    nib_model *model = nullptr;
    nib_error error = {};
    const nib_status status = nib_model_open("no/such/file.gguf", &params, &model, &error);
    expect(status == NIB_ERROR_IO || status == NIB_ERROR_NOT_FOUND, "a missing file is an error");
    expect(error.status == status, "the error has the status returned");
    expect(std::strstr(error.message, "no/such/file.gguf") != nullptr, "the error names the file");
    expect(model == nullptr, "no model is left behind");
    expect(nib_model_open("no/such/file.gguf", nullptr, &model, nullptr) != NIB_OK,
           "params and error may be null");
    nib_model_destroy(&model);
}

void check_devices()
{
    nib_device_info info = {};
    uint32_t count = 0;
    expect(nib_devices_list(&info, 1, &count, nullptr) == NIB_OK, "devices can be listed");
    expect(count >= 1 && info.backend == NIB_BACKEND_CPU, "the CPU is the first device");
    expect(info.threads >= 1 && info.memory_bytes > 0, "the CPU has threads and memory");

    nib_device_params params = params_of<nib_device_params>();
    params.threads = 2;
    nib_device *devices[2] = {};
    for (nib_device *&device : devices)
        expect(nib_device_open(&params, &device, nullptr) == NIB_OK, "a device can be opened");
    expect(devices[0] != devices[1], "two devices live side by side");
    nib_device_get_info(devices[0], &info);
    expect(info.threads == 2, "the device has the threads asked for");
    for (nib_device *&device : devices) {
        nib_device_destroy(&device);
        expect(device == nullptr, "destroying clears the pointer");
        nib_device_destroy(&device);
    }
}

void check_other_params()
{
    expect(params_of<nib_engine_params>().struct_size == sizeof(nib_engine_params), "engine");
    expect(params_of<nib_generate_params>().struct_size == sizeof(nib_generate_params), "generate");
    expect(params_of<nib_memory_params>().struct_size == sizeof(nib_memory_params), "memory");
    expect(params_of<nib_encode_params>().struct_size == sizeof(nib_encode_params), "encode");
    expect(params_of<nib_chat_params>().struct_size == sizeof(nib_chat_params), "chat");
    expect(params_of<nib_evaluate_params>().struct_size == sizeof(nib_evaluate_params), "evaluate");
    expect(params_of<nib_detokenizer_params>().struct_size == sizeof(nib_detokenizer_params),
           "detokenizer");
}

} // namespace

int main()
{
    check_version();
    check_missing_model();
    check_devices();
    check_other_params();
    return failures != 0;
}
