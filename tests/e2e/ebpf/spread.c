// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Sends AoE frames from the transmit queue that the shard bits of their tag name, as a target with a queue for each of
// its peer's shards would. A packet socket, and so vblade, uses one queue for all it sends.

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETHERTYPE_AOE 0x88a2
/* Ethernet header, then version, error, shelf, slot and command. */
#define TAG_OFFSET (14 + 6)
#define GO_ON -1

SEC("tc")
int spread(struct __sk_buff *frame)
{
	__u8 first;

	if (frame->protocol != bpf_htons(ETHERTYPE_AOE))
		return GO_ON;
	if (bpf_skb_load_bytes(frame, TAG_OFFSET, &first, sizeof(first)) < 0)
		return GO_ON;
	/* One more than the queue: zero means that none was recorded (skb_tx_hash in net/core/dev.c). */
	frame->queue_mapping = (first >> 4) + 1;
	return GO_ON;
}

char _license[] SEC("license") = "Dual MIT/GPL";
