#include "model.h"

#include <stdio.h>
#include <string.h>

#include "model_data.h"

/* Leaves the function with the reason if ONNX Runtime refuses. */
#define TRY(call)                                                                     \
  do {                                                                                \
    OrtStatus *refusal = (call);                                                      \
    if (refusal != NULL) {                                                            \
      snprintf(m->error, sizeof m->error, "%s", m->api->GetErrorMessage(refusal)); \
      m->api->ReleaseStatus(refusal);                                                 \
      return MODEL_FAILED;                                                                      \
    }                                                                                 \
  } while (0)

/* Whether the processor does not sum 8-bit products in 32 bits, or the system does not tell. */
#if defined(__x86_64__)
#include <cpuid.h>
/* CPUID 7: AVX512_VNNI is bit 11 of ECX, AMX-INT8 bit 25 of EDX; AVX-VNNI is bit 4 of EAX in subleaf 1. The compiler's
 * builtins know whether the system keeps the registers that these take. */
static int lacks_integer_dot(void) {
  unsigned a, b, c, d, a1, b1, c1, d1;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1)) return 1;
  __builtin_cpu_init();
  int wide = __builtin_cpu_supports("avx512f") && (((c >> 11) & 1) || ((d >> 25) & 1));
  return !wide && !(__builtin_cpu_supports("avx2") && ((a1 >> 4) & 1));
}
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
static int lacks_integer_dot(void) { return !(getauxval(AT_HWCAP) & HWCAP_ASIMDDP); }
#elif defined(__aarch64__) && defined(__APPLE__)
static int lacks_integer_dot(void) { return 0; } /* every Apple processor since the M1 has it */
#else
static int lacks_integer_dot(void) { return 1; }
#endif

/* Returns the first variant that this processor can run, or NULL with what each one lacks in m->error. */
static const struct model_variant *choose(model *m, const char *name) {
  const size_t start = (size_t)snprintf(m->error, sizeof m->error, "no variant of this package fits this processor:");
  size_t used = start;
  for (const struct model_variant *v = model_variants; v < model_variants + MODEL_VARIANTS; v++) {
    if (name != NULL && strcmp(name, v->name)) continue;
    if (v->needs == NULL || !lacks_integer_dot()) return v;
    if (used < sizeof m->error)
      used += (size_t)snprintf(m->error + used, sizeof m->error - used, " %s needs 8-bit products that are summed in 32 bits: %s;", v->name, v->needs);
  }
  if (used == start) snprintf(m->error + used, sizeof m->error - used, " none has that name");
  return NULL;
}

static int set_options(model *m, OrtSessionOptions *options) {
  TRY(m->api->SetSessionGraphOptimizationLevel(options, m->variant->optimization));
  TRY(m->api->SetIntraOpNumThreads(options, m->variant->threads));
  TRY(m->api->SetInterOpNumThreads(options, 1));
  for (const char *const(*entry)[2] = m->variant->entries; (*entry)[0] != NULL; entry++)
    TRY(m->api->AddSessionConfigEntry(options, (*entry)[0], (*entry)[1]));
  return 0;
}

int model_open(model *m, const char *folder, const char *variant) {
  char path[4096];
  OrtSessionOptions *options = NULL;
  memset(m, 0, sizeof *m);
  m->variant = choose(m, variant);
  if (m->variant == NULL) return MODEL_UNFIT;
  m->error[0] = '\0';
  snprintf(path, sizeof path, "%s/%s/model.onnx", folder, m->variant->name);
  m->api = OrtGetApiBase()->GetApi(ORT_ABI_VERSION);
  if (m->api == NULL) {
    snprintf(m->error, sizeof m->error, "ONNX Runtime %s is older than API version %d", OrtGetApiBase()->GetVersionString(), ORT_ABI_VERSION);
    return MODEL_FAILED;
  }
  TRY(m->api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "model", &m->env));
  TRY(m->api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &m->memory));
  TRY(m->api->CreateSessionOptions(&options));
  if (set_options(m, options) != 0) {
    m->api->ReleaseSessionOptions(options);
    return MODEL_FAILED;
  }
  OrtStatus *status = m->api->CreateSession(m->env, path, options, &m->session);
  m->api->ReleaseSessionOptions(options);
  TRY(status);
  return 0;
}

size_t model_bytes(const model_tensor *tensor) {
  static const size_t sizes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8}; /* by onnx.TensorProto.DataType */
  size_t bytes = tensor->type > 0 && tensor->type < (int)(sizeof sizes / sizeof *sizes) ? sizes[tensor->type] : 0;
  for (size_t i = 0; i < tensor->rank; i++) bytes *= (size_t)tensor->shape[i];
  return bytes;
}

static int describe(model *m, OrtValue *value, model_tensor *tensor) {
  OrtTensorTypeAndShapeInfo *info = NULL;
  ONNXTensorElementDataType type;
  TRY(m->api->GetTensorTypeAndShape(value, &info));
  OrtStatus *status = m->api->GetTensorElementType(info, &type);
  if (status == NULL) status = m->api->GetDimensionsCount(info, &tensor->rank);
  if (status == NULL && tensor->rank <= MODEL_RANK_MAX) status = m->api->GetDimensions(info, tensor->shape, tensor->rank);
  m->api->ReleaseTensorTypeAndShapeInfo(info);
  TRY(status);
  if (tensor->rank > MODEL_RANK_MAX) {
    snprintf(m->error, sizeof m->error, "an output has %zu dimensions, more than %d", tensor->rank, MODEL_RANK_MAX);
    return MODEL_FAILED;
  }
  tensor->type = (int)type;
  TRY(m->api->GetTensorMutableData(value, &tensor->data));
  return 0;
}

static void release_answers(model *m) {
  for (size_t i = 0; i < MODEL_OUTPUTS; i++) {
    if (m->answers[i] != NULL) m->api->ReleaseValue(m->answers[i]);
    m->answers[i] = NULL;
  }
}

static int run(model *m, const model_tensor *inputs, OrtValue **values) {
  for (size_t i = 0; i < MODEL_INPUTS; i++)
    TRY(m->api->CreateTensorWithDataAsOrtValue(m->memory, inputs[i].data, model_bytes(&inputs[i]), inputs[i].shape, inputs[i].rank,
                                               inputs[i].type, &values[i]));
  TRY(m->api->Run(m->session, NULL, model_inputs, (const OrtValue *const *)values, MODEL_INPUTS, model_outputs, MODEL_OUTPUTS,
                  m->answers));
  return 0;
}

int model_run(model *m, const model_tensor *inputs, model_tensor *outputs) {
  OrtValue *values[MODEL_INPUTS] = {0};
  release_answers(m);
  int failed = run(m, inputs, values);
  for (size_t i = 0; i < MODEL_INPUTS; i++)
    if (values[i] != NULL) m->api->ReleaseValue(values[i]);
  for (size_t i = 0; i < MODEL_OUTPUTS && !failed; i++) failed = describe(m, m->answers[i], &outputs[i]);
  return failed;
}

void model_close(model *m) {
  if (m->api == NULL) return;
  release_answers(m);
  if (m->session != NULL) m->api->ReleaseSession(m->session);
  if (m->memory != NULL) m->api->ReleaseMemoryInfo(m->memory);
  if (m->env != NULL) m->api->ReleaseEnv(m->env);
  memset(m, 0, sizeof *m);
}
