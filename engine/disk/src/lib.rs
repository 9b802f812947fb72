//! Disks behind a target: memory, files and block devices through io_uring.
