// What the XDP program and its loader must agree on. The build script reads this file too and writes it into the
// header that the program is compiled with, so each number has one source.

/// Shards that can share one receive queue: the key of a socket is `receive queue * SHARDS_PER_QUEUE + shard`.
pub const SHARDS_PER_QUEUE: u32 = 16;

/// VLAN tags that the program looks behind; frames with more are left to the kernel.
pub const VLAN_TAGS_MAX: u32 = 2;

/// Source addresses that the allow-list holds at most.
pub const ALLOWED_MAX: u32 = 4096;

/// Name of the program in the object.
pub const PROGRAM: &str = "steer";

/// Name of the XSKMAP with the sockets.
pub const MAP_SOCKETS: &str = "sockets";

/// Name of the per-CPU array of counters, one `u64` for each of [`COUNTERS`].
pub const MAP_COUNTERS: &str = "counters";

/// Name of the hash map of source addresses: six bytes of address and two of zero, to a byte of no meaning.
pub const MAP_ALLOWED: &str = "allowed";

/// Name of the constant that makes the program ask the allow-list, a `u32`, set before loading.
pub const GLOBAL_ALLOW_LIST: &str = "allow_list_on";

/// What the program counts, in the order of the array: verdict and reason.
pub const COUNTERS: [&str; 8] = [
    "passed_other",
    "passed_short",
    "passed_tags",
    "passed_no_socket",
    "redirected_aoe",
    "redirected_aoe_base",
    "redirected_lock",
    "dropped_not_allowed",
];
