// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Steers SAN frames to the AF_XDP sockets and leaves everything else to the kernel.
//
// AoE and lock frames, behind up to two VLAN tags, go to the socket whose key is `receive queue * 16 + shard`. An AoE
// response carries its shard in the high four bits of its tag; whatever carries no tag of ours goes to shard 0 of the
// queue, and so does a response whose shard has no socket here. Where no socket is, the kernel gets the frame.
//
// The program runs in the multi-buffer section: only the first buffer of a frame can be read directly, and every
// header read here lies in it. A frame whose first buffer ends before the tag is steered like one without a tag.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steer_layout.h"

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, SHARDS_PER_QUEUE);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTER_COUNT);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, __u8);
	__uint(max_entries, ALLOWED_MAX);
} allowed SEC(".maps");

/* Set by the loader: frozen with the program, so the verifier removes the look-up where there is no list. */
volatile const __u32 allow_list_on = 0;

/* Counts one frame; the verdict passes through, so that each return says both. */
static __always_inline int counted(__u32 reason, int verdict)
{
	__u64 *count = bpf_map_lookup_elem(&counters, &reason);

	if (count)
		*count += 1; /* per CPU, and XDP does not nest on one CPU */
	return verdict;
}

static __always_inline int is_allowed(const __u8 *frame)
{
	__u8 key[8] = {};

	__builtin_memcpy(key, frame + SOURCE_OFFSET, MAC_BYTES);
	return bpf_map_lookup_elem(&allowed, key) != 0;
}

SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	const __u8 *frame = (const __u8 *)(long)ctx->data;
	const __u8 *end = (const __u8 *)(long)ctx->data_end;
	const __u8 *type_at = frame + ETHERTYPE_OFFSET;
	__u32 base = ctx->rx_queue_index * SHARDS_PER_QUEUE;
	const __u8 *body;
	__u16 type;
	__u8 shard;

	if (type_at + sizeof(type) > end)
		return counted(PASSED_SHORT, XDP_PASS);
	type = (__u16)(type_at[0] << 8 | type_at[1]);

#pragma unroll
	for (int tags = 0; tags < VLAN_TAGS_MAX; tags++) {
		if (type != ETHERTYPE_VLAN && type != ETHERTYPE_SERVICE_VLAN)
			break;
		type_at += VLAN_TAG_BYTES;
		if (type_at + sizeof(type) > end)
			return counted(PASSED_SHORT, XDP_PASS);
		type = (__u16)(type_at[0] << 8 | type_at[1]);
	}
	if (type == ETHERTYPE_VLAN || type == ETHERTYPE_SERVICE_VLAN)
		return counted(PASSED_TAGS, XDP_PASS);
	if (type != ETHERTYPE_AOE && type != ETHERTYPE_LOCK)
		return counted(PASSED_OTHER, XDP_PASS);
	if (allow_list_on && !is_allowed(frame))
		return counted(DROPPED_NOT_ALLOWED, XDP_DROP);

	if (type == ETHERTYPE_LOCK) {
		if (bpf_redirect_map(&sockets, base, XDP_PASS) == XDP_REDIRECT)
			return counted(REDIRECTED_LOCK, XDP_REDIRECT);
		return counted(PASSED_NO_SOCKET, XDP_PASS);
	}

	/* Offsets are those of an untagged frame; the body moves with the tags. */
	body = type_at + sizeof(type);
	if (body + (SHARD_OFFSET - HEADER_BYTES) + 1 <= end && (body[FLAGS_OFFSET - HEADER_BYTES] & FLAG_RESPONSE)) {
		shard = body[SHARD_OFFSET - HEADER_BYTES] >> 4;
		if (bpf_redirect_map(&sockets, base + shard, XDP_PASS) == XDP_REDIRECT)
			return counted(REDIRECTED_AOE, XDP_REDIRECT);
	}
	if (bpf_redirect_map(&sockets, base, XDP_PASS) == XDP_REDIRECT)
		return counted(REDIRECTED_AOE_BASE, XDP_REDIRECT);
	return counted(PASSED_NO_SOCKET, XDP_PASS);
}

char _license[] SEC("license") = "Dual MIT/GPL";
