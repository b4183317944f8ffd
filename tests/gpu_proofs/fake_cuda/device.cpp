// A CUDA device for torch's CPU build: a device guard, which autograd asks for devices and streams, and CUDA hooks, which
// torch asks for page-locked ("pinned") memory. Nothing is computed here. Load the library before torch is imported,
// since torch keeps the hooks that it finds first.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace {

constexpr c10::DeviceIndex kDevices = 8;
thread_local c10::DeviceIndex current_device_index = 0;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, current_device_index}; }
  void setDevice(c10::Device device) const override { current_device_index = device.index(); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { current_device_index = device.index(); }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device previous = getDevice();
    setDevice(device);
    return previous;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  // Every device has one stream, in which operators are done as soon as they are called.
  c10::Stream getStream(c10::Device device) const override {
    const auto index = device.index() < 0 ? current_device_index : device.index();
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(c10::DeviceType::CUDA, index));
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return getStream(stream.device()); }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};

// Ends of the blocks of pinned memory by their starts.
std::map<const char*, const char*> pinned_blocks;
std::mutex pinned_mutex;

void pin(const void* data, size_t bytes) {
  const std::lock_guard<std::mutex> lock(pinned_mutex);
  const char* start = static_cast<const char*>(data);
  pinned_blocks[start] = start + bytes;
}

bool unpin(const void* data) {
  const std::lock_guard<std::mutex> lock(pinned_mutex);
  return pinned_blocks.erase(static_cast<const char*>(data)) == 1;
}

void free_pinned(void* data) {
  if (data == nullptr) return;
  unpin(data);
  std::free(data);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &free_pinned, c10::Device(c10::DeviceType::CPU)};
    void* data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    pin(data, bytes);
    return {data, data, &free_pinned, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  int getNumGPUs() const override { return kDevices; }
  c10::DeviceIndex current_device() const override { return current_device_index; }
  c10::DeviceIndex getCurrentDevice() const override { return current_device_index; }
  bool isPinnedPtr(const void* data) const override {
    const std::lock_guard<std::mutex> lock(pinned_mutex);
    const char* address = static_cast<const char*>(data);
    const auto after = pinned_blocks.upper_bound(address);
    return after != pinned_blocks.begin() && address < std::prev(after)->second;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    static PinnedAllocator allocator;
    return &allocator;
  }
};

const bool registered = [] {
  static Guard guard;
  c10::impl::registerDeviceGuard(c10::DeviceType::CUDA, &guard);
  at::CUDAHooksRegistry()->Register("CUDAHooks", [](at::CUDAHooksArgs args) -> std::unique_ptr<at::CUDAHooksInterface> {
    return std::make_unique<Hooks>(args);
  });
  return true;
}();

}  // namespace

// What cudaHostRegister and cudaHostUnregister do; both return 0 on success.
extern "C" int pin_block(const void* data, size_t bytes) {
  pin(data, bytes);
  return 0;
}

extern "C" int unpin_block(const void* data) { return unpin(data) ? 0 : 1; }
