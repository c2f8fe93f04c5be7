/* A driver library for tests: answers NVML and cuDriverGetVersion from a description in a file.
 *
 * Compiled twice by tests/support/nvml_stub.py, as libnvidia-ml.so.1 and as libcuda.so.1. The file is named by
 * NVML_STUB_MACHINE. It has lines `key = value`; `[gpu]` begins a GPU and `[mig]` a MIG device of the last GPU:
 *
 *     driver_version = 535.216.01
 *     cuda = 12020
 *     fail nvmlInitWithFlags = 18        any function can be told to fail with a code ...
 *     [gpu]
 *     name = NVIDIA A10G
 *     fail nvmlDeviceGetName = 15        ... for the whole library, or for one GPU
 *     [mig]
 *     uuid = MIG-...
 *
 * `fail F = hang` never returns and `fail F = crash` aborts. A key that is missing makes the call that needs it return
 * NVML_ERROR_NOT_SUPPORTED. To add a call: write it with SYSTEM or DEVICE, and answer with text(), number() or decimal().
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
enum { SECTIONS = 256, KEYS = 96, LENGTH = 200 };

typedef struct {
    char kind; /* 's'ystem, 'g'pu, 'm'ig device */
    int parent;
    int count;
    char key[KEYS][LENGTH];
    char value[KEYS][LENGTH];
} Section;

static Section *sections;
static int section_count;
static int initialised;

static char *trimmed(char *text)
{
    while (*text == ' ' || *text == '\t')
        text++;
    for (char *end = text + strlen(text); end > text && strchr(" \t\r\n", end[-1]); end--)
        end[-1] = '\0';
    return text;
}

static Section *begin(char kind, int parent)
{
    if (section_count == SECTIONS)
        abort();
    Section *section = &sections[section_count++];
    section->kind = kind;
    section->parent = parent;
    return section;
}

static void load(void)
{
    if (sections)
        return;
    sections = calloc(SECTIONS, sizeof(Section));
    Section *section = begin('s', -1);
    int gpu = -1;
    const char *path = getenv("NVML_STUB_MACHINE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file)
        return;
    char buffer[2 * LENGTH];
    while (fgets(buffer, sizeof buffer, file)) {
        char *line = trimmed(buffer);
        char *equals = strchr(line, '=');
        if (strcmp(line, "[gpu]") == 0) {
            gpu = section_count;
            section = begin('g', 0);
        } else if (strcmp(line, "[mig]") == 0) {
            section = begin('m', gpu);
        } else if (equals && section->count < KEYS) {
            *equals = '\0';
            snprintf(section->key[section->count], LENGTH, "%s", trimmed(line));
            snprintf(section->value[section->count++], LENGTH, "%s", trimmed(equals + 1));
        }
    }
    fclose(file);
}

static const char *find(const Section *section, const char *key)
{
    for (int i = 0; i < section->count; i++)
        if (strcmp(section->key[i], key) == 0)
            return section->value[i];
    return NULL;
}

/* What the description tells a function to do instead of answering; SUCCESS lets it answer. */
static int told(const Section *section, const char *function)
{
    char key[LENGTH];
    snprintf(key, sizeof key, "fail %s", function);
    const char *value = find(section, key);
    if (!value && section != sections)
        value = find(sections, key);
    if (!value)
        return SUCCESS;
    if (strcmp(value, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(value, "crash") == 0)
        abort();
    return atoi(value);
}

static int text(const Section *section, const char *key, char *out, unsigned length)
{
    const char *value = find(section, key);
    if (!value)
        return NOT_SUPPORTED;
    if (strlen(value) + 1 > length)
        return TOO_SMALL;
    strcpy(out, value);
    return SUCCESS;
}

static int number(const Section *section, const char *key, unsigned long long *out)
{
    const char *value = find(section, key);
    if (!value)
        return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 0);
    return SUCCESS;
}

static int small(const Section *section, const char *key, unsigned *out)
{
    unsigned long long value;
    int code = number(section, key, &value);
    if (code == SUCCESS)
        *out = (unsigned)value;
    return code;
}

/* A mode and what it will be after a reset: the same, where the description does not say. */
static int mode(const Section *section, const char *key, const char *pending_key, unsigned *current, unsigned *pending)
{
    int code = small(section, key, current);
    if (code == SUCCESS && small(section, pending_key, pending) != SUCCESS)
        *pending = *current;
    return code;
}

/* The n-th section of a kind below a parent. */
static Section *nth(char kind, int parent, unsigned index)
{
    for (int i = 0; i < section_count; i++)
        if (sections[i].kind == kind && sections[i].parent == parent && index-- == 0)
            return &sections[i];
    return NULL;
}

static unsigned count(char kind, int parent)
{
    unsigned found = 0;
    while (nth(kind, parent, found))
        found++;
    return found;
}

#define STOP_IF_TOLD(section, function)               \
    do {                                              \
        int code = told(section, function);           \
        if (code != SUCCESS)                          \
            return code;                              \
    } while (0)

#define SYSTEM                                        \
    do {                                              \
        if (!initialised)                             \
            return UNINITIALIZED;                     \
        STOP_IF_TOLD(sections, __func__);             \
    } while (0)

#define DEVICE(device)                                \
    do {                                              \
        if (!initialised)                             \
            return UNINITIALIZED;                     \
        if (!(device))                                \
            return INVALID_ARGUMENT;                  \
        STOP_IF_TOLD(device, __func__);               \
    } while (0)

/* --- the library ------------------------------------------------------------------------------------------------ */

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    load();
    STOP_IF_TOLD(sections, __func__);
    initialised = 1;
    return SUCCESS;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void)
{
    initialised = 0;
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 13: return "Function Not Found";
    case 15: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

/* --- the system ------------------------------------------------------------------------------------------------- */

int nvmlSystemGetDriverVersion(char *out, unsigned length) { SYSTEM; return text(sections, "driver_version", out, length); }
int nvmlSystemGetNVMLVersion(char *out, unsigned length) { SYSTEM; return text(sections, "nvml_version", out, length); }

int nvmlSystemGetCudaDriverVersion_v2(int *out)
{
    SYSTEM;
    unsigned long long value;
    int code = number(sections, "cuda", &value);
    if (code == SUCCESS)
        *out = (int)value;
    return code;
}

int nvmlDeviceGetCount_v2(unsigned *out)
{
    SYSTEM;
    *out = count('g', 0);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Section **out)
{
    SYSTEM;
    Section *device = nth('g', 0, index);
    if (!device)
        return INVALID_ARGUMENT;
    STOP_IF_TOLD(device, __func__);
    *out = device;
    return SUCCESS;
}

/* --- one GPU or MIG device -------------------------------------------------------------------------------------- */

int nvmlDeviceGetName(Section *device, char *out, unsigned length) { DEVICE(device); return text(device, "name", out, length); }
int nvmlDeviceGetUUID(Section *device, char *out, unsigned length) { DEVICE(device); return text(device, "uuid", out, length); }

int nvmlDeviceGetMemoryInfo(Section *device, unsigned long long out[3]) /* total, free, used */
{
    DEVICE(device);
    int code = number(device, "memory_bytes", &out[0]);
    if (number(device, "memory_used_bytes", &out[2]) != SUCCESS)
        out[2] = 0;
    out[1] = out[0] - out[2];
    return code;
}

int nvmlDeviceGetCudaComputeCapability(Section *device, int *major, int *minor)
{
    DEVICE(device);
    const char *value = find(device, "compute_capability");
    return value && sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} PciInfo;

int nvmlDeviceGetPciInfo_v3(Section *device, PciInfo *out)
{
    DEVICE(device);
    memset(out, 0, sizeof *out);
    unsigned long long device_id;
    if (number(device, "pci_device_id", &device_id) == SUCCESS)
        out->device_id = (unsigned)device_id << 16 | 0x10de;
    return text(device, "pci_bus_id", out->bus_id, sizeof out->bus_id);
}

int nvmlDeviceGetMigMode(Section *device, unsigned *current, unsigned *pending)
{
    DEVICE(device);
    return mode(device, "mig", "mig_pending", current, pending);
}

int nvmlDeviceGetMaxMigDeviceCount(Section *device, unsigned *out)
{
    DEVICE(device);
    *out = find(device, "mig") ? 7 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Section *device, unsigned index, Section **out)
{
    DEVICE(device);
    *out = nth('m', (int)(device - sections), index);
    return *out ? SUCCESS : NOT_FOUND;
}

/* --- the health and the speed of one GPU ------------------------------------------------------------------------ */

#define SMALL(name, key) int name(Section *device, unsigned *out) { DEVICE(device); return small(device, key, out); }

SMALL(nvmlDeviceGetPersistenceMode, "persistence")
SMALL(nvmlDeviceGetComputeMode, "compute_mode")
SMALL(nvmlDeviceGetPowerUsage, "power_mw")
SMALL(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
SMALL(nvmlDeviceGetPowerManagementDefaultLimit, "power_default_mw")
SMALL(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
SMALL(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
SMALL(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
SMALL(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")
SMALL(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pending")

#define OF_TYPE(name, key) \
    int name(Section *device, unsigned type, unsigned *out) { (void)type; DEVICE(device); return small(device, key, out); }

OF_TYPE(nvmlDeviceGetClockInfo, "clock")
OF_TYPE(nvmlDeviceGetMaxClockInfo, "clock_max")
OF_TYPE(nvmlDeviceGetApplicationsClock, "application_clock")
OF_TYPE(nvmlDeviceGetDefaultApplicationsClock, "application_clock_default")
OF_TYPE(nvmlDeviceGetTemperature, "temperature")

#define REASONS(name) int name(Section *device, unsigned long long *out) { DEVICE(device); return number(device, "event_reasons", out); }

REASONS(nvmlDeviceGetCurrentClocksEventReasons)
REASONS(nvmlDeviceGetCurrentClocksThrottleReasons) /* its name before driver 535 */

int nvmlDeviceGetEccMode(Section *device, unsigned *current, unsigned *pending)
{
    DEVICE(device);
    return mode(device, "ecc", "ecc_pending", current, pending);
}

int nvmlDeviceGetTotalEccErrors(Section *device, unsigned type, unsigned counter, unsigned long long *out)
{
    static const char *const keys[2][2] = {
        {"ecc_corrected", "ecc_corrected_ever"},
        {"ecc_uncorrected", "ecc_uncorrected_ever"},
    };
    DEVICE(device);
    return type < 2 && counter < 2 ? number(device, keys[type][counter], out) : INVALID_ARGUMENT;
}

/* `rows = corrected uncorrected pending failed` */
int nvmlDeviceGetRemappedRows(Section *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed)
{
    DEVICE(device);
    const char *value = find(device, "rows");
    return value && sscanf(value, "%u %u %u %u", corrected, uncorrected, pending, failed) == 4 ? SUCCESS : NOT_SUPPORTED;
}

/* `retired_pages = n`: n pages at made-up addresses */
int nvmlDeviceGetRetiredPages(Section *device, unsigned cause, unsigned *pages, unsigned long long *addresses)
{
    (void)cause;
    DEVICE(device);
    unsigned found;
    int code = small(device, "retired_pages", &found);
    if (code != SUCCESS)
        return code;
    if (!addresses || *pages < found) {
        *pages = found;
        return found ? TOO_SMALL : SUCCESS;
    }
    for (unsigned i = 0; i < found; i++)
        addresses[i] = 0x1000ull * (i + 1);
    *pages = found;
    return SUCCESS;
}

typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type, code;
    unsigned long long value;
} FieldValue;

/* Field 230 is the recovery action; others, and GPUs without the key, are not supported each on its own. */
int nvmlDeviceGetFieldValues(Section *device, int fields, FieldValue *values)
{
    DEVICE(device);
    for (int i = 0; i < fields; i++)
        values[i].code = (unsigned)(values[i].field == 230 ? number(device, "recovery_action", &values[i].value) : NOT_SUPPORTED);
    return SUCCESS;
}

typedef struct {
    unsigned version;
    unsigned char cluster[16];
    unsigned status, clique;
    unsigned char state;
    unsigned health_mask;
} FabricInfo;

/* `fabric = state status health_mask` */
int nvmlDeviceGetGpuFabricInfoV(Section *device, FabricInfo *out)
{
    DEVICE(device);
    if (out->version != (sizeof *out | 2u << 24))
        return 25; /* NVML_ERROR_ARGUMENT_VERSION_MISMATCH */
    const char *value = find(device, "fabric");
    unsigned state;
    if (!value || sscanf(value, "%u %u %u", &state, &out->status, &out->health_mask) != 3)
        return NOT_SUPPORTED;
    out->state = (unsigned char)state;
    return SUCCESS;
}

/* `links = 1101`: one digit for each NVLink connection */
int nvmlDeviceGetNvLinkState(Section *device, unsigned link, unsigned *out)
{
    DEVICE(device);
    const char *value = find(device, "links");
    if (!value)
        return NOT_SUPPORTED;
    if (link >= strlen(value))
        return INVALID_ARGUMENT;
    *out = value[link] == '1';
    return SUCCESS;
}

typedef struct {
    unsigned pid;
    unsigned long long memory_bytes;
    unsigned instance, compute_instance;
} Process;

/* `processes = pid:bytes pid:bytes`; without the key there are none */
int nvmlDeviceGetComputeRunningProcesses_v3(Section *device, unsigned *processes, Process *out)
{
    DEVICE(device);
    const char *value = find(device, "processes");
    unsigned found = 0, room = out ? *processes : 0;
    for (int used; value && *value; value += used, found++) {
        Process process = {0, 0, ~0u, ~0u};
        if (sscanf(value, "%u:%llu %n", &process.pid, &process.memory_bytes, &used) != 2)
            break;
        if (found < room)
            out[found] = process;
    }
    *processes = found;
    return found > room ? TOO_SMALL : SUCCESS;
}

/* --- libcuda ---------------------------------------------------------------------------------------------------- */

int cuDriverGetVersion(int *out)
{
    load();
    STOP_IF_TOLD(sections, __func__);
    unsigned long long value;
    if (number(sections, "libcuda", &value) != SUCCESS)
        return 999; /* CUDA_ERROR_UNKNOWN */
    *out = (int)value;
    return SUCCESS;
}
