//! A vector in pieces of fixed size. Growing never moves elements, so a push takes the same time however many there
//! are.

use std::ops::{Index, IndexMut};

/// Elements of a piece.
const PIECE: usize = 4096;

/// A vector whose elements never move.
pub(super) struct Chunked<T> {
    /// All pieces but the last are full.
    pieces: Vec<Vec<T>>,
}

impl<T> Chunked<T> {
    pub(super) fn new() -> Chunked<T> {
        Chunked { pieces: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        let last = self.pieces.last().map_or(0, Vec::len);
        self.pieces.len().saturating_sub(1) * PIECE + last
    }

    pub(super) fn get(&self, n: usize) -> Option<&T> {
        self.pieces.get(n / PIECE)?.get(n % PIECE)
    }

    pub(super) fn push(&mut self, element: T) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => last.push(element),
            // The first piece grows like any vector, since most of these vectors stay small.
            None => self.pieces.push(vec![element]),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(element);
                self.pieces.push(piece);
            }
        }
    }
}

impl<T> Index<usize> for Chunked<T> {
    type Output = T;

    fn index(&self, n: usize) -> &T {
        &self.pieces[n / PIECE][n % PIECE]
    }
}

impl<T> IndexMut<usize> for Chunked<T> {
    fn index_mut(&mut self, n: usize) -> &mut T {
        &mut self.pieces[n / PIECE][n % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_a_vector() {
        let mut numbers = Chunked::new();
        for n in 0..3 * PIECE {
            assert_eq!(numbers.len(), n);
            numbers.push(n);
        }
        numbers[PIECE] = 7;
        let seen = [0, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE - 1].map(|n| numbers[n]);
        assert_eq!(seen, [0, PIECE - 1, 7, PIECE + 1, 3 * PIECE - 1]);
        assert_eq!((numbers.get(3 * PIECE), numbers.len()), (None, 3 * PIECE));
    }
}
