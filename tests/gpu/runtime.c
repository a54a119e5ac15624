/* A CUDA runtime of one pretended device: its memory is the host's, and its kernels do nothing.
   Loaded before torch (LD_PRELOAD), it answers what torch asks of the true one. */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK cudaSuccess
#define GIGABYTES(n) ((size_t)(n) << 30)
static char one[64]; /* the one stream, event and context */

/* ---- the device ---- */
cudaError_t cudaGetDeviceCount(int *n) { *n = 1; return OK; }
cudaError_t cudaGetDevice(int *d) { *d = 0; return OK; }
cudaError_t cudaSetDevice(int d) { return d == 0 ? OK : cudaErrorInvalidDevice; }
cudaError_t cudaDriverGetVersion(int *v) { *v = 13000; return OK; }
cudaError_t cudaRuntimeGetVersion(int *v) { *v = 13000; return OK; }
cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = 0; return OK; }
cudaError_t cudaDeviceEnablePeerAccess(int a, unsigned flags) { return OK; }
cudaError_t cudaDeviceSynchronize(void) { return OK; }
cudaError_t cudaGetLastError(void) { return OK; }
cudaError_t cudaPeekAtLastError(void) { return OK; }
cudaError_t cudaMemGetInfo(size_t *free, size_t *all) { *free = GIGABYTES(140); *all = GIGABYTES(141); return OK; }
cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "0000:00:00.0"); return OK; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *low, int *high) {
  if (low) *low = 0;
  if (high) *high = -5;
  return OK;
}
cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr what, int d) {
  *v = what == cudaDevAttrComputeCapabilityMajor ? 9 : what == cudaDevAttrMultiProcessorCount ? 132 : 0;
  return OK;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Pretended GPU");
  p->major = 9;
  p->multiProcessorCount = 132;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->totalGlobalMem = GIGABYTES(141);
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->l2CacheSize = 50 << 20;
  return OK;
}

/* ---- memory; what is pinned is remembered, because torch asks ---- */
static struct { char *at; size_t size; } pinned[1 << 16];
static int n_pinned;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static cudaError_t allocate(void **p, size_t n) {
  *p = aligned_alloc(512, (n + 511) / 512 * 512);
  return *p ? OK : cudaErrorMemoryAllocation;
}
static void remember(void *p, size_t n) {
  pthread_mutex_lock(&guard);
  if (n_pinned == 1 << 16) abort();
  pinned[n_pinned].at = p;
  pinned[n_pinned++].size = n;
  pthread_mutex_unlock(&guard);
}
static void forget(void *p) {
  pthread_mutex_lock(&guard);
  for (int i = 0; i < n_pinned; i++)
    if (pinned[i].at == p) { pinned[i] = pinned[--n_pinned]; break; }
  pthread_mutex_unlock(&guard);
}
cudaError_t cudaMalloc(void **p, size_t n) { return allocate(p, n); }
cudaError_t cudaFree(void *p) { free(p); return OK; }
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags) {
  cudaError_t error = allocate(p, n);
  if (error == OK) remember(*p, n);
  return error;
}
cudaError_t cudaFreeHost(void *p) { forget(p); free(p); return OK; }
cudaError_t cudaHostRegister(void *p, size_t n, unsigned flags) { remember(p, n); return OK; }
cudaError_t cudaHostUnregister(void *p) { forget(p); return OK; }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a);
  a->type = cudaMemoryTypeUnregistered;
  pthread_mutex_lock(&guard);
  for (int i = 0; i < n_pinned; i++)
    if ((char *)p >= pinned[i].at && (char *)p < pinned[i].at + pinned[i].size) a->type = cudaMemoryTypeHost;
  pthread_mutex_unlock(&guard);
  return OK;
}
cudaError_t cudaMemcpy(void *d, const void *s, size_t n, enum cudaMemcpyKind k) { memcpy(d, s, n); return OK; }
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, enum cudaMemcpyKind k, cudaStream_t t) {
  memcpy(d, s, n);
  return OK;
}
cudaError_t cudaMemset(void *d, int v, size_t n) { memset(d, v, n); return OK; }
cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t t) { memset(d, v, n); return OK; }

/* ---- streams and events: all is done at once, so nobody waits ---- */
cudaError_t cudaEventCreate(cudaEvent_t *e) { *e = (cudaEvent_t)one; return OK; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { *e = (cudaEvent_t)one; return OK; }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return OK; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { *ms = 1; return OK; }
cudaError_t cudaEventQuery(cudaEvent_t e) { return OK; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t t) { return OK; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t t, unsigned flags) { return OK; }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { return OK; }
cudaError_t cudaStreamCreate(cudaStream_t *t) { *t = (cudaStream_t)one; return OK; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *t, unsigned f, int p) { *t = (cudaStream_t)one; return OK; }
cudaError_t cudaStreamDestroy(cudaStream_t t) { return OK; }
cudaError_t cudaStreamQuery(cudaStream_t t) { return OK; }
cudaError_t cudaStreamSynchronize(cudaStream_t t) { return OK; }
cudaError_t cudaStreamWaitEvent(cudaStream_t t, cudaEvent_t e, unsigned flags) { return OK; }
cudaError_t cudaStreamGetPriority(cudaStream_t t, int *p) { *p = 0; return OK; }
cudaError_t cudaStreamIsCapturing(cudaStream_t t, enum cudaStreamCaptureStatus *s) {
  *s = cudaStreamCaptureStatusNone;
  return OK;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m) { return OK; }

/* ---- the driver ---- */
static int nothing(void) { return 0; }
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuCtxGetCurrent(void **c) { *c = one; return 0; }
int cuGetErrorString(int e, const char **s) { *s = "pretended"; return 0; }
int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **p, unsigned v, unsigned long long f,
                                             enum cudaDriverEntryPointQueryResult *r) {
  void *found = dlsym(RTLD_DEFAULT, name);
  *p = found ? found : (void *)nothing;
  if (r) *r = cudaDriverEntryPointSuccess;
  return OK;
}
