//! Which tokens of a window's context are shown, where that is not the window itself.

use crate::code;
use crate::error::Result;
use crate::index::{Index, Postings};
use crate::sampling::plan::Plan;

/// How a window becomes a stretch of text.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) length: usize,
    centred: bool,
    window: usize,
    context: usize,
}

/// The stretches of one latent's windows, and its activations to fill them with.
pub(super) struct Stretches {
    pub(super) postings: Postings,
    views: Vec<View>,
}

/// How one window is shown.
struct View {
    window: u64,
    start: u64,
    shown: bool,
}

impl Frame {
    pub(super) fn of(plan: &Plan, index: &Index) -> Self {
        Self {
            length: plan.length.unwrap_or(index.window()),
            centred: plan.centred,
            window: index.window(),
            context: index.context_length(),
        }
    }

    /// Whether the windows themselves are shown.
    pub(super) fn on_grid(self) -> bool {
        self.length == self.window && !self.centred
    }

    /// The first position of the stretch with `middle` in its middle, within the context.
    fn around(self, middle: u64) -> u64 {
        let offset = middle % self.context as u64;
        let before = (self.length / 2) as u64;
        let last = (self.context - self.length) as u64;
        middle - offset + offset.saturating_sub(before).min(last)
    }

    /// The stretch around the middle of the window that begins at `start`.
    fn around_middle(self, start: u64) -> u64 {
        self.around(start + (self.window / 2) as u64)
    }

    /// The stretch of a window without a peak; none where the window before it has the same.
    pub(super) fn silent(self, start: u64) -> Option<u64> {
        let stretch = self.around_middle(start);
        let first = start.is_multiple_of(self.context as u64);
        (first || self.around_middle(start - self.window as u64) != stretch).then_some(stretch)
    }

    /// Whether every window that a stretch touches is of a side.
    pub(super) fn within(self, index: &Index, start: u64, sides: &[u8], side: u8) -> bool {
        let last = start + self.length as u64 - 1;
        let touched = index.window_number(start)..=index.window_number(last);
        sides[touched].iter().all(|&other| other == side)
    }
}

impl Stretches {
    /// Decodes all postings of a latent.
    ///
    /// Of windows whose stretches are the same, at the edge of a context, the strongest is shown,
    /// and a window only if its stretch holds an activation.
    pub(super) fn of(index: &Index, latent: u32, frame: Frame) -> Result<Self> {
        let postings = index.postings(latent)?;
        let length = frame.window as u64;
        let mut views: Vec<View> = Vec::new();
        // The last view shown: its place, its stretch, and the code of its peak.
        let mut last: Option<(usize, u64, u16)> = None;
        let mut from = 0;
        while let Some(&first) = postings.positions.get(from) {
            let window = index.window_number(first) as u64;
            let begin = index.window_start(window);
            let to = postings.rank(begin + length);
            let (mut peak, mut largest) = (first, 0);
            for posting in from..to {
                let code = code::code(code::bf16_of(postings.activations[posting]));
                if posting == from || code > largest {
                    (peak, largest) = (postings.positions[posting], code);
                }
            }
            let start = if frame.centred {
                frame.around(peak)
            } else {
                frame.around_middle(begin)
            };
            let next = postings.rank(start);
            let end = start + frame.length as u64;
            let mut shown = postings.positions.get(next).is_some_and(|&p| p < end);
            // Stretches ascend with their windows, so equal ones follow one another.
            match last {
                Some((at, other, code)) if shown && other == start => {
                    if largest > code {
                        views[at].shown = false;
                        last = Some((views.len(), start, largest));
                    } else {
                        shown = false;
                    }
                }
                _ if shown => last = Some((views.len(), start, largest)),
                _ => {}
            }
            views.push(View {
                window,
                start,
                shown,
            });
            from = to;
        }
        Ok(Self { postings, views })
    }

    /// Where the stretch of an activating window begins, if it is shown.
    pub(super) fn start(&self, window: u64) -> Option<u64> {
        let at = self
            .views
            .binary_search_by_key(&window, |view| view.window)
            .ok()?;
        self.views[at].shown.then_some(self.views[at].start)
    }
}
