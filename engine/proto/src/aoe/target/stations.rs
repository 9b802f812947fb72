//! The initiators that have something under way, so that none can take more than its share.

use sandrail_wire::MacAddr;

/// A place in the table. Valid while something of the station is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StationId(u16);

impl StationId {
    /// Of an operation that is nobody's yet.
    pub(super) const NOBODY: Self = Self(u16::MAX);
}

#[derive(Clone, Copy, Debug)]
struct Station {
    mac: MacAddr,
    /// ATA commands under way.
    requests: u16,
    /// Other commands whose answers are not sent yet.
    controls: u16,
    /// When it was last used, in uses of the table.
    used: u64,
}

/// Why a frame of a station is not taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwelcome {
    /// It has all buffers under way that are told to it.
    BuffersFull,
    /// All places belong to other stations that have something under way.
    NoPlace,
}

/// What a station asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// A place among the ATA commands.
    Request,
    /// A place among the other commands.
    Control,
}

const HINTS: usize = 256;

/// All stations.
#[derive(Debug)]
pub(super) struct Stations {
    places: Vec<Station>,
    places_max: usize,
    requests_max: u16,
    controls_max: u16,
    uses: u64,
    /// Where a MAC was last found, by the bytes in which MACs differ most.
    hints: Box<[u16; HINTS]>,
}

impl Stations {
    pub(super) fn new(places_max: u16, requests_max: u16, controls_max: u16) -> Self {
        Self {
            places: Vec::with_capacity(usize::from(places_max)),
            places_max: usize::from(places_max),
            requests_max,
            controls_max,
            uses: 0,
            hints: Box::new([0; HINTS]),
        }
    }

    fn hint(mac: MacAddr) -> usize {
        let [_, _, c, d, e, f] = mac.0;
        usize::from(f ^ e.rotate_left(3) ^ d.rotate_left(5) ^ c)
    }

    /// Takes something of `mac` on.
    #[inline]
    pub(super) fn enter(&mut self, mac: MacAddr, share: Share) -> Result<StationId, Unwelcome> {
        self.uses += 1;
        let place = self.find(mac).ok_or(Unwelcome::NoPlace)?;
        let station = &mut self.places[usize::from(place)];
        station.used = self.uses;
        let (count, most) = match share {
            Share::Request => (&mut station.requests, self.requests_max),
            Share::Control => (&mut station.controls, self.controls_max),
        };
        if *count >= most {
            return Err(Unwelcome::BuffersFull);
        }
        *count += 1;
        Ok(StationId(place))
    }

    /// It is over.
    #[inline]
    pub(super) fn leave(&mut self, id: StationId, share: Share) {
        let station = &mut self.places[usize::from(id.0)];
        let count = match share {
            Share::Request => &mut station.requests,
            Share::Control => &mut station.controls,
        };
        *count = count.checked_sub(1).expect("what leaves has entered");
    }

    fn find(&mut self, mac: MacAddr) -> Option<u16> {
        let hint = Self::hint(mac);
        let place = self.hints[hint];
        if self
            .places
            .get(usize::from(place))
            .is_some_and(|station| station.mac == mac)
        {
            return Some(place);
        }
        let known = self.places.iter().position(|station| station.mac == mac);
        let place = match known {
            Some(place) => place,
            None => self.place_for(mac)?,
        };
        let place = u16::try_from(place).expect("places_max fits");
        self.hints[hint] = place;
        Some(place)
    }

    /// A free place, or that of the station that has been idle for longest.
    fn place_for(&mut self, mac: MacAddr) -> Option<usize> {
        let fresh = Station {
            mac,
            requests: 0,
            controls: 0,
            used: self.uses,
        };
        if self.places.len() < self.places_max {
            self.places.push(fresh);
            return Some(self.places.len() - 1);
        }
        let idle =
            |(_, station): &(usize, &Station)| station.requests == 0 && station.controls == 0;
        let (place, _) = self
            .places
            .iter()
            .enumerate()
            .filter(idle)
            .min_by_key(|(_, station)| station.used)?;
        self.places[place] = fresh;
        Some(place)
    }

    /// Commands of all stations under way.
    pub(super) fn under_way(&self) -> usize {
        let each =
            |station: &Station| usize::from(station.requests) + usize::from(station.controls);
        self.places.iter().map(each).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn each_has_its_share_and_idle_places_are_used_again() {
        let mut stations = Stations::new(2, 2, 1);
        let one = stations.enter(mac(1), Share::Request).unwrap();
        stations.enter(mac(1), Share::Request).unwrap();
        let full = Err(Unwelcome::BuffersFull);
        assert_eq!(stations.enter(mac(1), Share::Request), full);
        let control = stations.enter(mac(1), Share::Control).unwrap();
        assert_eq!(stations.enter(mac(1), Share::Control), full);
        stations.leave(control, Share::Control);

        let two = stations.enter(mac(2), Share::Control).unwrap();
        assert_ne!(one, two);
        assert_eq!(
            stations.enter(mac(3), Share::Request),
            Err(Unwelcome::NoPlace)
        );
        assert_eq!(stations.under_way(), 3);
        stations.leave(two, Share::Control);
        assert_eq!(stations.enter(mac(3), Share::Request), Ok(two));
        stations.leave(one, Share::Request);
        assert_eq!(stations.enter(mac(1), Share::Request), Ok(one));
        assert_eq!(
            stations.enter(mac(2), Share::Request),
            Err(Unwelcome::NoPlace),
            "both have something under way"
        );
    }

    #[test]
    fn the_one_idle_for_longest_goes_first() {
        let mut stations = Stations::new(3, 1, 1);
        for last in [1, 2, 3, 1] {
            let id = stations.enter(mac(last), Share::Request).unwrap();
            stations.leave(id, Share::Request);
        }
        let id = stations.enter(mac(4), Share::Request).unwrap();
        assert_eq!(id, StationId(1), "the place of the second");
    }

    #[test]
    fn macs_that_share_a_hint_are_told_apart() {
        let twin = MacAddr([4, 1, 0, 0, 0, 1]);
        assert_eq!(Stations::hint(mac(1)), Stations::hint(twin));
        let mut stations = Stations::new(2, 1, 1);
        let one = stations.enter(mac(1), Share::Request).unwrap();
        let two = stations.enter(twin, Share::Request).unwrap();
        assert_ne!(one, two);
        assert_eq!(
            stations.enter(mac(1), Share::Request),
            Err(Unwelcome::BuffersFull)
        );
    }
}
