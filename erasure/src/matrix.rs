//! Small matrices over GF(2^8).

use crate::galois::{inverse, multiply, power};
use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    columns: usize,
    cells: Vec<u8>,
}

impl Matrix {
    /// `cell(r, c) = r^c`: any `columns` rows are independent.
    pub fn vandermonde(rows: usize, columns: usize) -> Self {
        let cells = (0..rows).flat_map(|r| (0..columns).map(move |c| power(r as u8, c))).collect();
        Self { columns, cells }
    }

    pub fn row(&self, row: usize) -> &[u8] {
        &self.cells[row * self.columns..(row + 1) * self.columns]
    }

    pub fn row_count(&self) -> usize {
        self.cells.len() / self.columns
    }

    pub fn rows(&self, rows: Range<usize>) -> Self {
        let cells = self.cells[rows.start * self.columns..rows.end * self.columns].to_vec();
        Self { columns: self.columns, cells }
    }

    /// The rows `rows`, in that order.
    pub fn pick(&self, rows: &[usize]) -> Self {
        Self { columns: self.columns, cells: rows.iter().flat_map(|&row| self.row(row).to_vec()).collect() }
    }

    pub fn times(&self, right: &Self) -> Self {
        assert_eq!(self.columns, right.row_count(), "shapes fit");
        let cell = |r: usize, c: usize| {
            (0..self.columns).fold(0, |sum, i| sum ^ multiply(self.row(r)[i], right.row(i)[c]))
        };
        let cells = (0..self.row_count()).flat_map(|r| (0..right.columns).map(move |c| cell(r, c))).collect();
        Self { columns: right.columns, cells }
    }

    /// Gauss-Jordan elimination; `None` where the matrix is singular.
    pub fn inverse(&self) -> Option<Self> {
        let n = self.columns;
        assert_eq!(n, self.row_count(), "only square matrices have inverses");
        // Each row with the identity's row behind it.
        let mut rows: Vec<Vec<u8>> = (0..n)
            .map(|r| self.row(r).iter().copied().chain((0..n).map(|c| u8::from(c == r))).collect())
            .collect();
        for column in 0..n {
            let pivot = (column..n).find(|&r| rows[r][column] != 0)?;
            rows.swap(column, pivot);
            let scale = inverse(rows[column][column])?;
            rows[column].iter_mut().for_each(|cell| *cell = multiply(*cell, scale));
            let pivot_row = rows[column].clone();
            for (r, row) in rows.iter_mut().enumerate() {
                let factor = row[column];
                if r != column && factor != 0 {
                    row.iter_mut().zip(&pivot_row).for_each(|(cell, &p)| *cell ^= multiply(factor, p));
                }
            }
        }
        Some(Self { columns: n, cells: rows.into_iter().flat_map(|row| row[n..].to_vec()).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_times_its_inverse_is_the_identity() {
        let matrix = Matrix::vandermonde(9, 6).pick(&[8, 1, 3, 7, 2, 5]);
        let product = matrix.times(&matrix.inverse().expect("independent rows"));
        for r in 0..6 {
            assert!((0..6).all(|c| product.row(r)[c] == u8::from(r == c)));
        }
    }

    #[test]
    fn a_singular_matrix_has_no_inverse() {
        assert_eq!(Matrix::vandermonde(4, 2).pick(&[3, 3]).inverse(), None);
    }
}
