// Keeps one large block of freed memory for the next request of its size. Preloaded (LD_PRELOAD) on Linux with glibc.
//
// XLA asks for a program's temporary arrays as one block at every call, and frees it afterwards. malloc gives blocks
// beyond 32 MB back to the system, which has to clear the pages of the next one: on a virtual machine it must often get
// them from its host first. A block is kept if no other large one was given out after it, and serves a request that
// takes at least half of it, so steps need no more memory than without this. What may need more in another way (malloc,
// mmap) calls malloc_trim first, as the Estimator does before it compiles, evaluates or saves.
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>

#include <atomic>
#include <mutex>
#include <utility>

namespace {

std::atomic<void*> next_aligned_alloc, next_free, next_malloc_trim, next_posix_memalign;

// The function of this name that would be called without this library.
template <typename Function>
Function* Next(Function*, std::atomic<void*>& known, const char* name) {
  void* next = known.load(std::memory_order_relaxed);
  if (!next) known = next = dlsym(RTLD_NEXT, name);
  return reinterpret_cast<Function*>(next);
}

#define NEXT(name) Next(&name, next_##name, #name)

constexpr size_t kLarge = size_t{32} << 20;  // the largest blocks that malloc keeps by itself
std::mutex mutex;  // of both, as one program asks for its block at the moment at which another frees its own
std::atomic<void*> latest;
void* kept;

void* TakeKept() {
  void* block = kept;
  kept = nullptr;
  return block;
}

bool Serves(void* block, size_t alignment, size_t size) {
  const size_t usable = malloc_usable_size(block);
  return size <= usable && size >= usable / 2 && reinterpret_cast<uintptr_t>(block) % alignment == 0;
}

void* Large(size_t alignment, size_t size) {
  const std::lock_guard<std::mutex> lock(mutex);
  void* block = TakeKept();
  if (block && !Serves(block, alignment, size)) {
    NEXT(free)(block);
    block = nullptr;
  }
  if (!block) block = NEXT(aligned_alloc)(alignment, size);
  latest = block;
  return block;
}

}  // namespace

extern "C" void* aligned_alloc(size_t alignment, size_t size) noexcept {
  return size > kLarge ? Large(alignment, size) : NEXT(aligned_alloc)(alignment, size);
}

extern "C" int posix_memalign(void** result, size_t alignment, size_t size) noexcept {
  if (size <= kLarge || alignment & (alignment - 1)) return NEXT(posix_memalign)(result, alignment, size);
  void* block = Large(alignment, size);
  if (block) *result = block;
  return block ? 0 : ENOMEM;
}

extern "C" void free(void* block) noexcept {
  if (block && block == latest.load(std::memory_order_relaxed)) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (block == latest) {
      latest = nullptr;
      std::swap(block, kept);
    }
  }
  NEXT(free)(block);
}

// Gives the kept block back as well.
extern "C" int malloc_trim(size_t padding) noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    NEXT(free)(TakeKept());
  }
  return NEXT(malloc_trim)(padding);
}
