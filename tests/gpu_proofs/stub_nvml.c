/* The symbols of libnvidia-ml.so.1 that FBGEMM's CUDA wheel needs to load; each of them answers NVML_ERROR_UNKNOWN. */
int nvmlInit_v2() { return 999; }
int nvmlDeviceGetCount_v2() { return 999; }
int nvmlDeviceGetHandleByIndex_v2() { return 999; }
int nvmlDeviceGetPciInfo_v3() { return 999; }
int nvmlDeviceGetNvLinkState() { return 999; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2() { return 999; }
