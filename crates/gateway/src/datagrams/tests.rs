//! Whose a datagram is, where there are several workers.

use super::*;
use crate::team::{Parcel, assemble};

/// Of two workers, with what is handed to each.
fn two_rooms() -> [(DatagramRoom, Receiver<Parcel>); 2] {
    let sides = assemble(2, &std::sync::Arc::default()).into_iter();
    let rooms = sides.map(|(team, post)| {
        let room = DatagramRoom::new(Vec::new(), Rc::new(team), post.words);
        (room, post.parcels)
    });
    let rooms: Vec<_> = rooms.collect();
    rooms.try_into().ok().expect("two")
}

/// A record without a connection id.
const RECORD: [u8; 17] = [23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4];

/// What it is marked with.
const MARK: Ecn = Ecn::Ce;

#[test]
fn a_record_goes_to_the_worker_that_claimed_its_address_and_not_on_from_there() {
    let [(here, _), (there, mut parcels)] = two_rooms();
    let (from, now) = (Endpoint::nowhere(), Now::default());
    let mut port = there.port(vec![1; 32]);
    assert_eq!(here.arrived(&RECORD, (from, MARK), now), None);
    there.claim(Key::From(from), &port);
    assert_eq!(here.arrived(&RECORD, (from, MARK), now), Some(1));
    here.hand_on(1, Together::one(RECORD.to_vec(), MARK), from);
    let Some(Parcel::Datagrams { bytes, each, ecn, from }) = parcels.try_recv() else {
        panic!("no parcel");
    };
    assert_eq!(ecn, MARK);
    there.handed((bytes, each, ecn), from, now);
    assert_eq!(port.arrivals.try_recv().map(|arrival| arrival.datagrams()), Some(1));

    there.release(Key::From(from), &port);
    there.handed((Freight::Own(RECORD.to_vec()), RECORD.len(), MARK), from, now);
    assert_eq!(here.arrived(&RECORD, (from, MARK), now), None);
    assert_eq!((here.strays.get().unknown, there.strays.get().unknown), (2, 1));
    assert!(parcels.try_recv().is_none() && port.arrivals.try_recv().is_none());
}

#[test]
fn an_address_is_of_the_worker_that_claimed_it_last() {
    let [(here, _), (there, _)] = two_rooms();
    let (from, now) = (Endpoint::nowhere(), Now::default());
    let (old, mut new) = (here.port(vec![1; 32]), there.port(vec![2; 32]));
    here.claim(Key::From(from), &old);
    there.claim(Key::From(from), &new);
    here.hear_all();
    assert_eq!(here.arrived(&RECORD, (from, MARK), now), Some(1));
    // What the old one says afterwards takes nothing away.
    here.release(Key::From(from), &old);
    assert_eq!(there.arrived(&RECORD, (from, MARK), now), None);
    assert!(new.arrivals.try_recv().is_some());
}
