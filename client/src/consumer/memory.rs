//! What a consumer frees of one answer, it needs for the next.

/// glibc learns nothing from a larger block.
const LEARNED_BYTES_MAX: usize = 31 * 1024 * 1024;

/// Has the allocator keep as much as twice these bytes of what is freed. glibc gives the end of a
/// heap back to the system once it is twice as large as the largest block freed so far that was
/// mapped by itself, and to take it anew costs a fault for each page: together up to half of all
/// that a consumer at full speed does. So it is shown a block of that size, which is never touched
/// and takes no memory. Other allocators make nothing of it.
pub(super) fn keep(bytes: usize) {
    let mut block: Vec<u8> = Vec::new();
    // Without room for it there is nothing to learn.
    let _ = block.try_reserve_exact(bytes.min(LEARNED_BYTES_MAX));
    drop(std::hint::black_box(block));
}
