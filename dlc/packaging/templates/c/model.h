/* The model behind four functions. Each returns 0, or -1 with the reason in model->error. */
#ifndef MODEL_H
#define MODEL_H

#include "ort_abi.h"

#define MODEL_RANK_MAX 8
#define MODEL_IO_MAX 64

/* A tensor in C order. type: the number of onnx.TensorProto.DataType. */
typedef struct {
  int type;
  size_t rank;
  int64_t shape[MODEL_RANK_MAX];
  void *data;
} model_tensor;

typedef struct {
  const OrtApi *api;
  OrtEnv *env;
  OrtSession *session;
  OrtMemoryInfo *memory;
  OrtValue *answers[MODEL_IO_MAX]; /* hold the outputs of the last run */
  char error[512];
} model;

/* Opens the model file, with the options it was measured with. */
int model_open(model *m, const char *path);

/* Runs once. Inputs and outputs are in the order of model_data.h; outputs point into the model until its next run. */
int model_run(model *m, const model_tensor *inputs, model_tensor *outputs);

/* Bytes of a tensor. */
size_t model_bytes(const model_tensor *tensor);

void model_close(model *m);

#endif
