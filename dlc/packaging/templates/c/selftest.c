/* Replays the golden vectors: ./selftest FOLDER [VARIANT] prints one JSON object; exit code 1 if an answer differs, 3 if this
 * processor cannot run the variant. */
#define _POSIX_C_SOURCE 200809L
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"
#include "model_data.h"

#define RUNS 20

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Reads a half-precision number (IEEE 754 binary16). */
static double half(uint16_t bits) {
  int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  double size = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
  return bits >> 15 ? -size : size;
}

static double element(int type, const void *data, size_t i) {
  switch (type) {
    case 1: return ((const float *)data)[i];
    case 10: return half(((const uint16_t *)data)[i]);
    default: return ((const double *)data)[i];
  }
}

/* max|got - stated| / max|stated|; infinite for another shape or type, another NaN, another integer. */
static double error_of(const model_tensor *got, const golden_tensor *stated, const unsigned char *data) {
  const model_tensor *want = &stated->tensor;
  const unsigned char *expected = data + stated->offset;
  if (got->type != want->type || got->rank != want->rank || memcmp(got->shape, want->shape, want->rank * sizeof *want->shape)) return INFINITY;
  if (got->type != 1 && got->type != 10 && got->type != 11) return memcmp(got->data, expected, stated->bytes) ? INFINITY : 0;
  size_t count = stated->bytes / (got->type == 1 ? 4 : got->type == 10 ? 2 : 8);
  double worst = 0, largest = 0;
  for (size_t i = 0; i < count; i++) {
    double a = element(got->type, got->data, i), b = element(got->type, expected, i);
    if (!isfinite(b)) {
      if (isnan(b) ? !isnan(a) : a != b) return INFINITY;
      continue;
    }
    if (!isfinite(a)) return INFINITY;
    worst = fmax(worst, fabs(a - b));
    largest = fmax(largest, fabs(b));
  }
  return worst > 0 ? worst / fmax(largest, FLT_MIN) : 0;
}

static unsigned char *read_golden(const char *folder, const struct model_variant *variant) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s/golden.bin", folder, variant->name);
  FILE *file = fopen(path, "rb");
  unsigned char *data = malloc(variant->bytes);
  if (file == NULL || data == NULL || fread(data, 1, variant->bytes, file) != variant->bytes) {
    fprintf(stderr, "%s cannot be read\n", path);
    exit(2);
  }
  fclose(file);
  return data;
}

/* Largest resident set of this process in bytes, 0 where the system does not tell. */
static long long peak(void) {
  char line[256];
  long long kib = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file != NULL && fgets(line, sizeof line, file) != NULL) sscanf(line, "VmHWM: %lld", &kib);
  if (file != NULL) fclose(file);
  return kib * 1024;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void feed(const golden_vector *vector, unsigned char *data, model_tensor *inputs) {
  for (size_t i = 0; i < MODEL_INPUTS; i++) {
    inputs[i] = vector->inputs[i].tensor;
    inputs[i].data = data + vector->inputs[i].offset;
  }
}

static void must(int failed, const model *m) {
  if (!failed) return;
  fprintf(stderr, "%s\n", m->error);
  exit(failed == MODEL_UNFIT ? 3 : 2);
}

static int report(const struct model_variant *variant, const double *errors, double load_ms, double latency_ms) {
  int agrees = 1;
  printf("{\"runtime\": \"onnxruntime %s\", \"variant\": \"%s\", \"bound\": %.17g, \"vectors\": %zu, \"errors\": {",
         OrtGetApiBase()->GetVersionString(), variant->name, variant->bound, variant->count);
  for (size_t i = 0; i < MODEL_OUTPUTS; i++) {
    agrees = agrees && errors[i] <= variant->bound;
    printf("%s\"%s\": ", i ? ", " : "", model_outputs[i]);
    if (isfinite(errors[i])) printf("%.6g", errors[i]);
    else printf("null");
  }
  printf("}, \"load_ms\": %.3f, \"latency_ms\": %.6f, \"peak_bytes\": %lld}\n", load_ms, latency_ms, peak());
  return agrees ? 0 : 1;
}

int main(int argc, char **argv) {
  const char *folder = argc > 1 ? argv[1] : ".";
  model m;
  model_tensor inputs[MODEL_INPUTS], outputs[MODEL_OUTPUTS];
  double errors[MODEL_OUTPUTS] = {0}, times[RUNS];
  double start = now_ms();
  must(model_open(&m, folder, argc > 2 ? argv[2] : NULL), &m);
  double load_ms = now_ms() - start;
  const golden_vector *vectors = m.variant->vectors;
  unsigned char *data = read_golden(folder, m.variant);
  for (size_t v = 0; v < m.variant->count; v++) {
    feed(&vectors[v], data, inputs);
    must(model_run(&m, inputs, outputs), &m);
    for (size_t i = 0; i < MODEL_OUTPUTS; i++) errors[i] = fmax(errors[i], error_of(&outputs[i], &vectors[v].outputs[i], data));
  }
  feed(&vectors[0], data, inputs);
  for (size_t i = 0; i < RUNS; i++) {
    start = now_ms();
    must(model_run(&m, inputs, outputs), &m);
    times[i] = now_ms() - start;
  }
  qsort(times, RUNS, sizeof *times, ascending);
  int code = report(m.variant, errors, load_ms, times[RUNS / 2]);
  model_close(&m);
  free(data);
  return code;
}
