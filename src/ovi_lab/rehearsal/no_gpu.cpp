// CUDA for a build of PyTorch without it: one device on which nothing ever runs.
//
// Autograd, autocast, generators and streams ask the device's guard and hooks; these answer without doing anything, so
// that tensors without data (FakeTensorMode) can say that they are on cuda:0. Which attention kernel a GPU would take
// is answered as well: flash for bf16 and fp16 without a mask, else the memory-efficient one, as far as
// torch.nn.attention.sdpa_kernel allows them.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/Allocator.h>
#include <c10/core/GeneratorImpl.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>

#include <atomic>
#include <vector>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

thread_local DeviceIndex current_device = 0;
thread_local c10::StreamId current_stream = 0;
std::atomic<c10::StreamId> streams{0};

struct NoGpuGuard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device device) const override {
    Device before(DeviceType::CUDA, current_device);
    uncheckedSetDevice(device);
    return before;
  }
  Device getDevice() const override { return Device(DeviceType::CUDA, current_device); }
  void setDevice(Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.index() >= 0) current_device = device.index();
  }
  Stream getStream(Device device) const override { return stream(device, current_stream); }
  Stream getDefaultStream(Device device) const override { return stream(device, 0); }
  Stream getNewStream(Device device, int) const override { return stream(device, ++streams); }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return stream(device, ++streams); }
  Stream exchangeStream(Stream next) const override {
    Stream before = stream(next.device(), current_stream);
    current_stream = next.id();
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const Stream&, const DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) *event = &streams;
  }
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
  double elapsedTime(void*, void*, const DeviceIndex) const override { return 0.0; }

 private:
  static Stream stream(Device device, c10::StreamId id) {
    DeviceIndex index = device.index() < 0 ? current_device : device.index();
    return Stream(Stream::UNSAFE, Device(DeviceType::CUDA, index), id);
  }
};

// A generator that says it is on the GPU and only keeps its seed: nothing is drawn from it.
struct NoGpuGenerator final : c10::GeneratorImpl {
  explicit NoGpuGenerator(DeviceIndex index)
      : c10::GeneratorImpl(Device(DeviceType::CUDA, index), c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override { seed_ = seed; }
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override { return seed_; }
  void set_state(const c10::TensorImpl&) override {}
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    TORCH_CHECK(false, "a generator of the rehearsal's GPU has no state");
  }

 private:
  NoGpuGenerator* clone_impl() const override {
    auto* copy = new NoGpuGenerator(device().index());
    copy->seed_ = seed_;
    return copy;
  }
  uint64_t seed_ = c10::default_rng_seed_val;
  uint64_t offset_ = 0;
};

// PyTorch finds its hooks by this name.
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(DeviceType::CPU); }
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void deviceSynchronize(DeviceIndex) const override {}
  const at::Generator& getDefaultGenerator(DeviceIndex) const override {
    static const at::Generator only = at::make_generator<NoGpuGenerator>(DeviceIndex{0});
    return only;
  }
  at::Generator getNewGenerator(DeviceIndex index) const override {
    return at::make_generator<NoGpuGenerator>(index < 0 ? DeviceIndex{0} : index);
  }
};

// DDP times its first passes.
struct NoGpuTimer final : c10d::Timer {
  explicit NoGpuTimer(Device) {}
  std::optional<int64_t> measureDifference(Event, Event) override { return std::nullopt; }
};

int64_t attention_kernel(const at::Tensor& query, const at::Tensor&, const at::Tensor&,
                         const std::optional<at::Tensor>& mask, double, bool, std::optional<double>, bool) {
  auto& context = at::globalContext();
  const bool half = query.scalar_type() == at::kBFloat16 || query.scalar_type() == at::kHalf;
  if (half && !mask.has_value() && query.sym_size(-1) <= 256 && context.userEnabledFlashSDP())
    return static_cast<int64_t>(at::SDPBackend::flash_attention);
  if (context.userEnabledMemEfficientSDP()) return static_cast<int64_t>(at::SDPBackend::efficient_attention);
  if (context.userEnabledMathSDP()) return static_cast<int64_t>(at::SDPBackend::math);
  return static_cast<int64_t>(at::SDPBackend::error);
}

}  // namespace

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoGpuGuard)
}
namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at
namespace c10d {
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, NoGpuTimer);
}
namespace at::native {
static RegisterCUDADispatch<struct _fused_sdp_choice_stub_DECLARE_DISPATCH_type> attention_kernel_of_no_gpu(
    _fused_sdp_choice_stub, &attention_kernel);
}
