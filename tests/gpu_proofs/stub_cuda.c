/* libcuda.so.1 of a driver for CUDA 12.8, which a build of torch for CUDA 13 cannot use. */
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags) { *function = 0; return 500; }
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, void *status) { *function = 0; return 500; }
