/* A libcuda.so.1 of one GPU, or of a few to choose from, whose memory is the host's and whose work is done at once.
 *
 * It lets the real bindings be called without a GPU: their names, the order and the types of their arguments. What it
 * is given wrongly it refuses. How CUDA orders work it knows nothing of.
 * Source of the signatures: the CUDA driver API.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200 };
enum { INVALID_CONTEXT = 201, NOT_FOUND = 500, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713 };
enum { NON_BLOCKING = 1, BLOCKING_SYNC = 1, THREAD_LOCAL = 1, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };
enum { MOST_COPIES = 64, MOST_GPUS = 8 };

typedef int Result;
typedef unsigned long long Address;

static const size_t TOTAL = (size_t)1 << 30;
static char context, graph, executable, module;
static void *registered;
static struct gpu { int number, major, minor; size_t gib; } gpus[MOST_GPUS] = {{.major = 9, .gib = 1}};
static int gpu_count = 1;
static __thread int depth;
static int capturing, noted;
static struct { void *to; const void *from; size_t size; } notes[MOST_COPIES];

static Result inside(void) { return depth > 0 ? 0 : INVALID_CONTEXT; }

static Result copy(void *to, const void *from, size_t size) {
    if (!capturing) {
        memcpy(to, from, size);
    } else if (noted == MOST_COPIES) {
        return INVALID_VALUE;
    } else {
        notes[noted].to = to;
        notes[noted].from = from;
        notes[noted++].size = size;
    }
    return inside();
}

static Result allocate(void **memory, size_t size) {
    if (size > TOTAL) return OUT_OF_MEMORY;
    *memory = malloc(size);
    memset(*memory, 0xCD, size);
    return inside();
}

/* STUB_GPUS may say "8.9:24,9.0:139", the capabilities and GiB of the machine's GPUs; of them CUDA_VISIBLE_DEVICES
 * leaves those whose UUID it holds, as it stands in this process's environment when CUDA starts. */
Result cuInit(unsigned flags) {
    const char *said = getenv("STUB_GPUS"), *only = getenv("CUDA_VISIBLE_DEVICES");
    if (!said) return flags ? INVALID_VALUE : 0;
    gpu_count = 0;
    for (int number = 1; said && number <= MOST_GPUS; ++number) {
        char uuid[16];
        struct gpu found = {.number = number};
        sscanf(said, "%d.%d:%lu", &found.major, &found.minor, &found.gib);
        snprintf(uuid, sizeof uuid, "GPU-%08x", number);
        if (!only || strstr(only, uuid)) gpus[gpu_count++] = found;
        said = strchr(said, ',');
        if (said) ++said;
    }
    return flags ? INVALID_VALUE : gpu_count ? 0 : NO_DEVICE;
}
Result cuDeviceGet(int *device, int index) { *device = index; return index < gpu_count ? 0 : INVALID_DEVICE; }
Result cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, size, gpus[device].number ? "stub %d" : "a stub", gpus[device].number);
    return 0;
}
Result cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    memset(uuid, 0, 16);
    uuid[3] = gpus[device].number;
    return 0;
}
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = gpus[device].gib << 30; return 0; }
Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
Result cuDeviceGetAttribute(int *value, int kind, int device) {
    *value = kind == CAPABILITY_MAJOR ? gpus[device].major : kind == CAPABILITY_MINOR ? gpus[device].minor : -1;
    return 0;
}
Result cuDevicePrimaryCtxRetain(void **found, int device) {
    *found = &context;
    return device < gpu_count ? 0 : INVALID_DEVICE;
}
Result cuDevicePrimaryCtxRelease_v2(int device) { return device < gpu_count ? 0 : INVALID_DEVICE; }
Result cuCtxPushCurrent_v2(void *pushed) { return pushed == &context && ++depth ? 0 : INVALID_CONTEXT; }
Result cuCtxPopCurrent_v2(void **popped) { *popped = &context; return depth-- > 0 ? 0 : INVALID_CONTEXT; }
Result cuCtxSynchronize(void) { return inside(); }
Result cuMemGetInfo_v2(size_t *free, size_t *total) { *free = *total = TOTAL; return inside(); }

Result cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    *stream = malloc(1);
    return flags == NON_BLOCKING && priority <= 0 ? inside() : INVALID_VALUE;
}
Result cuStreamDestroy_v2(void *stream) { free(stream); return inside(); }
Result cuStreamSynchronize(void *stream) { return stream ? inside() : INVALID_VALUE; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    return stream && event && !flags ? inside() : INVALID_VALUE;
}

Result cuEventCreate(struct timespec **event, unsigned flags) {
    *event = calloc(1, sizeof **event);
    return flags == BLOCKING_SYNC ? inside() : INVALID_VALUE;
}
Result cuEventDestroy_v2(void *event) { free(event); return inside(); }
Result cuEventRecord(struct timespec *event, void *stream) {
    clock_gettime(CLOCK_MONOTONIC, event);
    return stream ? inside() : INVALID_VALUE;
}
Result cuEventSynchronize(void *event) { return event ? inside() : INVALID_VALUE; }
Result cuEventElapsedTime_v2(float *milliseconds, struct timespec *start, struct timespec *end) {
    *milliseconds = (end->tv_sec - start->tv_sec) * 1e3f + (end->tv_nsec - start->tv_nsec) * 1e-6f;
    return inside();
}
Result cuEventElapsedTime(float *milliseconds, struct timespec *start, struct timespec *end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

Result cuMemHostAlloc(void **memory, size_t size, unsigned flags) {
    return flags ? INVALID_VALUE : allocate(memory, size);
}
Result cuMemFreeHost(void *memory) { free(memory); return inside(); }
/* Knows one registration at a time. Page-locks nothing. */
Result cuMemHostRegister_v2(void *memory, size_t size, unsigned flags) {
    if (flags || !memory || !size || (Address)memory % 4096) return INVALID_VALUE;
    if (registered) return ALREADY_REGISTERED;
    registered = memory;
    return inside();
}
Result cuMemHostUnregister(void *memory) {
    if (!memory || memory != registered) return NOT_REGISTERED;
    registered = 0;
    return inside();
}
Result cuMemAlloc_v2(Address *address, size_t size) { return allocate((void **)address, size); }
Result cuMemFree_v2(Address address) { free((void *)address); return inside(); }
Result cuMemAllocAsync(Address *address, size_t size, void *stream) {
    return stream ? allocate((void **)address, size) : INVALID_VALUE;
}
Result cuMemFreeAsync(Address address, void *stream) {
    free((void *)address);
    return stream ? inside() : INVALID_VALUE;
}
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, void *stream) {
    return stream ? copy((void *)to, from, size) : INVALID_VALUE;
}
Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, void *stream) {
    return stream ? copy(to, (void *)from, size) : INVALID_VALUE;
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void *stream) {
    return stream ? copy((void *)to, (void *)from, size) : INVALID_VALUE;
}

Result cuStreamBeginCapture_v2(void *stream, int mode) {
    capturing = 1;
    noted = 0;
    return stream && mode == THREAD_LOCAL ? inside() : INVALID_VALUE;
}
Result cuStreamEndCapture(void *stream, void **captured) {
    capturing = 0;
    *captured = &graph;
    return stream ? inside() : INVALID_VALUE;
}
Result cuGraphInstantiateWithFlags(void **made, void *from, Address flags) {
    *made = &executable;
    return from == &graph && !flags ? inside() : INVALID_VALUE;
}
Result cuGraphDestroy(void *which) { return which == &graph ? inside() : INVALID_VALUE; }
Result cuGraphExecDestroy(void *which) { return which == &executable ? inside() : INVALID_VALUE; }
Result cuGraphLaunch(void *which, void *stream) {
    for (int index = 0; index < noted; ++index) memcpy(notes[index].to, notes[index].from, notes[index].size);
    return which == &executable && stream ? inside() : INVALID_VALUE;
}

Result cuModuleLoadData(void **loaded, const void *image) {
    *loaded = &module;
    return memcmp(image, "\x7f" "ELF", 4) ? INVALID_IMAGE : inside();
}
Result cuModuleUnload(void *which) { return which == &module ? inside() : INVALID_VALUE; }
Result cuModuleGetFunction(const char **function, void *from, const char *name) {
    *function = strcmp(name, "place_nv12") ? "place_rgb" : "place_nv12";
    return from == &module && !strcmp(*function, name) ? inside() : NOT_FOUND;
}
/* "Runs" a kernel by writing its grid, its block and the first number of its parameter to where its row is. */
Result cuLaunchKernel(const char *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                      unsigned bz, unsigned shared, void *stream, void **parameters, void **extra) {
    const Address *first = parameters[0];
    sprintf((char *)first[2], "%s %u %u %u %u %u %u %llu", function, gx, gy, gz, bx, by, bz, first[0]);
    return !shared && !extra && stream ? inside() : INVALID_VALUE;
}

Result cuGetErrorString(Result code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : "an error of the stub's";
    return 0;
}
/* NVRTC asks for it, and takes no for an answer. */
Result cuGetExportTable(const void **table, const void *id) {
    *table = 0;
    return id ? NOT_FOUND : INVALID_VALUE;
}

Result cuGetProcAddress_v2(const char *name, void **function, int version, Address flags, int *status) {
    char versioned[128];
    Dl_info self;
    (void)version, (void)flags;
    dladdr((void *)cuInit, &self);
    void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    *function = dlsym(library, versioned);
    if (!*function) *function = dlsym(library, name);
    if (!strcmp(name, "cuGraphInstantiate")) *function = (void *)cuGraphInstantiateWithFlags;
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : NOT_FOUND;
}
Result cuGetProcAddress(const char *name, void **function, int version, Address flags) {
    return cuGetProcAddress_v2(name, function, version, flags, 0);
}
