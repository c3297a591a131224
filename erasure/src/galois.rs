//! Arithmetic in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 (`0x11d`).

const fn multiply_slow(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a as u16, b, 0u16);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= 0x11d;
        }
        b >>= 1;
    }
    product as u8
}

const fn products() -> [[u8; 256]; 256] {
    let mut table = [[0; 256]; 256];
    let mut a = 0;
    while a < 256 {
        let mut b = 0;
        while b < 256 {
            table[a][b] = multiply_slow(a as u8, b as u8);
            b += 1;
        }
        a += 1;
    }
    table
}

/// `PRODUCT[a][b] = a * b`.
pub static PRODUCT: [[u8; 256]; 256] = products();

pub fn multiply(a: u8, b: u8) -> u8 {
    PRODUCT[usize::from(a)][usize::from(b)]
}

/// The `b` with `a * b = 1`; `None` for 0.
pub fn inverse(a: u8) -> Option<u8> {
    PRODUCT[usize::from(a)].iter().position(|&product| product == 1).map(|b| b as u8)
}

/// `base` to the power of `exponent`, with `0^0 = 1`.
pub fn power(base: u8, exponent: usize) -> u8 {
    (0..exponent).fold(1, |product, _| multiply(product, base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_but_zero_has_an_inverse() {
        assert_eq!(inverse(0), None);
        for a in 1..=255 {
            assert_eq!(multiply(a, inverse(a).expect("an inverse")), 1);
        }
    }

    #[test]
    fn multiplication_distributes() {
        for a in 0..=255u8 {
            for b in [0, 1, 2, 0x80, 0xff] {
                assert_eq!(multiply(a, b ^ 0x1d), multiply(a, b) ^ multiply(a, 0x1d));
            }
        }
    }
}
