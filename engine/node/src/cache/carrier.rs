//! What an initiator's request carries: a client's buffer, or pages of the cache where they are.

use sandrail_memory::cache::{PageRead, PageWrite};
use sandrail_memory::{Buffer, SECTOR_BYTES};
use sandrail_proto::aoe::initiator::RequestBuffer;
use sandrail_wire::FrameRef;

/// A request's data.
#[derive(Debug)]
pub(crate) enum Carrier {
    Buffer(Buffer),
    /// A page on its way in: its bytes go from the receive ring's memory to its frame, and nowhere else.
    Read {
        page: PageRead,
        copied_bytes: usize,
    },
    /// Pages on their way out: they go from their frames to the send ring's memory.
    Write(PageWrite),
}

impl Carrier {
    pub(crate) fn read(page: PageRead) -> Self {
        Self::Read {
            page,
            copied_bytes: 0,
        }
    }

    /// The buffer, if it is one.
    pub(crate) fn into_buffer(self) -> Buffer {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Read { .. } | Self::Write(_) => Buffer::empty(),
        }
    }
}

impl RequestBuffer for Carrier {
    fn len_bytes(&self) -> usize {
        match self {
            Self::Buffer(buffer) => buffer.len(),
            Self::Read { page, .. } => page.len_bytes(),
            Self::Write(pages) => pages.pages() * pages.page_bytes(),
        }
    }

    fn control(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer.as_ref(),
            Self::Read { .. } | Self::Write(_) => &[],
        }
    }

    fn control_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Buffer(buffer) => buffer.as_mut(),
            Self::Read { .. } | Self::Write(_) => &mut [],
        }
    }

    fn outgoing<'a>(
        &'a self,
        offset_bytes: usize,
        len_bytes: usize,
        staging: &'a mut [u8],
    ) -> &'a [u8] {
        let pages = match self {
            Self::Buffer(buffer) => return buffer.outgoing(offset_bytes, len_bytes, staging),
            Self::Read { .. } => return &[],
            Self::Write(pages) => pages,
        };
        let page_bytes = pages.page_bytes();
        let piece = |at: usize| {
            let image = pages.image(at / page_bytes);
            &image[at % page_bytes..]
        };
        let first = piece(offset_bytes);
        if first.len() >= len_bytes {
            return &first[..len_bytes];
        }
        let mut filled = 0;
        while filled < len_bytes {
            let from = piece(offset_bytes + filled);
            let take = from.len().min(len_bytes - filled);
            staging[filled..filled + take].copy_from_slice(&from[..take]);
            filled += take;
        }
        &staging[..len_bytes]
    }

    fn incoming(
        &mut self,
        offset_bytes: usize,
        len_bytes: usize,
        frame: &FrameRef<'_>,
        from_bytes: usize,
    ) -> bool {
        let (page, copied_bytes) = match self {
            Self::Buffer(buffer) => {
                return buffer.incoming(offset_bytes, len_bytes, frame, from_bytes);
            }
            Self::Write(_) => return false,
            Self::Read { page, copied_bytes } => (page, copied_bytes),
        };
        let end = from_bytes.checked_add(len_bytes);
        if end.is_none_or(|end| end > frame.len_bytes()) {
            return false;
        }
        let (mut skip, mut done) = (from_bytes, 0);
        for segment in frame.segments() {
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let take = (segment.len() - skip).min(len_bytes - done);
            page.fill(offset_bytes + done, &segment[skip..skip + take]);
            done += take;
            skip = 0;
            if done == len_bytes {
                break;
            }
        }
        *copied_bytes += done;
        true
    }

    /// Whole pages, where a frame holds one: what a disk likes, and what lies in one piece if it is one page.
    fn cut(&self, offset: u32, most: u16) -> u16 {
        let page_bytes = match self {
            Self::Buffer(_) => return most,
            Self::Read { page, .. } => page.len_bytes(),
            Self::Write(pages) => pages.page_bytes(),
        };
        let page_sectors = u32::try_from(page_bytes / SECTOR_BYTES).unwrap_or(1).max(1);
        let end = offset + u32::from(most);
        let whole = end - end % page_sectors;
        let cut = if whole > offset {
            whole - offset
        } else {
            u32::from(most)
        };
        u16::try_from(cut).unwrap_or(most)
    }
}
