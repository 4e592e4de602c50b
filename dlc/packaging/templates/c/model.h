/* The model behind four functions. Each returns 0, or another number with the reason in model->error. */
#ifndef MODEL_H
#define MODEL_H

#include "ort_abi.h"

#define MODEL_RANK_MAX 8
#define MODEL_IO_MAX 64
#define MODEL_FAILED (-1)
#define MODEL_UNFIT 3 /* this processor cannot run the variant, or none of the package */

/* A tensor in C order. type: the number of onnx.TensorProto.DataType. */
typedef struct {
  int type;
  size_t rank;
  int64_t shape[MODEL_RANK_MAX];
  void *data;
} model_tensor;

typedef struct {
  const struct model_variant *variant; /* of model_data.h: the one that is open */
  const OrtApi *api;
  OrtEnv *env;
  OrtSession *session;
  OrtMemoryInfo *memory;
  OrtValue *answers[MODEL_IO_MAX]; /* hold the outputs of the last run */
  char error[1024];
} model;

/* Opens the first variant in the folder of the package that this processor can run, or the one that is named, with the
 * options it was measured with. variant: NULL, or a name. */
int model_open(model *m, const char *folder, const char *variant);

/* Runs once. Inputs and outputs are in the order of model_data.h; outputs point into the model until its next run. */
int model_run(model *m, const model_tensor *inputs, model_tensor *outputs);

/* Bytes of a tensor. */
size_t model_bytes(const model_tensor *tensor);

void model_close(model *m);

#endif
