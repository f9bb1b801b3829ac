// Kernels of one stream that overlap (programmatic dependent launch, compute capability 9.0 and newer).
#pragma once

// The kernel behind this one may begin: it waits for this one's end before it reads what this one writes.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// Waits for the end of the kernel in front, with all that it has written. Every block must come by here: what is launched
// behind this kernel waits for this kernel alone.
__device__ __forceinline__ void wait_for_launch_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
