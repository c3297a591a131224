//! How many there are of one address, or of one device: nobody by itself takes what all share.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

type Taken<K> = Arc<Mutex<HashMap<K, usize>>>;

/// Seats, some for each one.
pub struct Seats<K> {
    most: usize,
    taken: Taken<K>,
}

/// A seat that is taken until it is dropped.
pub struct Seat<K: Eq + Hash> {
    one: K,
    taken: Taken<K>,
}

/// Who has an address: of version 6 one has a network of them.
pub fn address_of(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl<K> Clone for Seats<K> {
    fn clone(&self) -> Self {
        Self { most: self.most, taken: self.taken.clone() }
    }
}

impl<K: Eq + Hash + Clone> Seats<K> {
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A seat for somebody, if there is one.
    pub fn take(&self, one: K) -> Option<Seat<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(one.clone()).or_default();
        (*count < self.most).then(|| {
            *count += 1;
            Seat { one, taken: self.taken.clone() }
        })
    }
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.one) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.one);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_seats_and_a_network_is_one() {
        let seats = Seats::new(2);
        let take = |address: &str| seats.take(address_of(address.parse().expect("an address")));
        let held = (take("10.0.0.1:1"), take("10.0.0.1:2"));
        assert!(held.0.is_some() && held.1.is_some() && take("10.0.0.1:3").is_none());
        assert!(take("10.0.0.2:1").is_some(), "another has its own");
        drop(held.0);
        assert!(take("[::ffff:10.0.0.1]:4").is_some());
        let held = (take("[2001:db8::1]:1"), take("[2001:db8::2]:1"));
        assert!(held.0.is_some() && held.1.is_some() && take("[2001:db8::3]:1").is_none());
        drop(held);
        assert_eq!(seats.taken.lock().expect("nobody failed").len(), 1);
    }
}
