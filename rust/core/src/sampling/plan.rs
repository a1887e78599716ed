//! What to draw of each latent.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::index::Index;
use crate::sampling::sources::Sources;
use crate::sampling::stretch::Frame;

/// How the explain-side windows are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainKind {
    /// `n` of all, each equally likely.
    Uniform,
    /// The `n` strongest of the side.
    Top,
    /// `n` of the side's `pool` strongest.
    TopOf,
    /// `n / 10` of each decile of the whole index; what is left over, one each of the strongest
    /// deciles.
    Deciles,
    /// `n_top` of the side's `pool` strongest, and `n - n_top` of all others.
    Mixture,
}

/// What an explainer reads of each latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainPlan {
    /// How they are chosen.
    pub kind: ExplainKind,
    /// How many windows.
    pub n: usize,
    /// From how many of the strongest, for `top_of` and `mixture`.
    pub pool: usize,
    /// How many from the strongest, for `mixture`.
    pub n_top: usize,
}

/// Which windows are drawn as negatives, from the easiest to the hardest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeKind {
    /// Any, each equally likely.
    Random,
    /// Those that hold the token of a peak of the latent.
    PeakToken,
    /// Those that hold the token before or after a peak of the latent.
    NearToken,
    /// Those named by [`NearestTable`], the nearest first.
    Embedding,
    /// Those in which a neighbour of [`NeighbourTable`] is active; no parents or children.
    Decoder,
    /// The same whether or not the latent is active there, parents and children included.
    DecoderUnfiltered,
}

impl NegativeKind {
    /// The code in [`Examples::kind`](crate::Examples::kind).
    pub(super) fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The name in [`Shortfall::what`].
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::PeakToken => "peak_token",
            Self::NearToken => "near_token",
            Self::Embedding => "embedding",
            Self::Decoder => "decoder",
            Self::DecoderUnfiltered => "decoder_unfiltered",
        }
    }

    /// The name in [`Shortfall::what`] of what the asked ranks could not give.
    pub(super) fn name_of_ranks(self) -> &'static str {
        match self {
            Self::DecoderUnfiltered => "decoder_unfiltered_ranks",
            _ => "decoder_ranks",
        }
    }

    /// Whether it draws from neighbours.
    pub(super) fn of_neighbours(self) -> bool {
        matches!(self, Self::Decoder | Self::DecoderUnfiltered)
    }

    /// Whether it draws by the tokens of the latent's peaks, or those around them.
    pub(super) fn of_peaks(self) -> bool {
        matches!(self, Self::PeakToken | Self::NearToken)
    }
}

/// One list of negatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NegativePlan {
    /// Which windows.
    pub kind: NegativeKind,
    /// How many.
    pub n: usize,
    /// Tokens on either side of what is shown, within the context, on which the latent must be
    /// silent too. Not for [`NegativeKind::DecoderUnfiltered`].
    pub margin: usize,
    /// First and last rank of the neighbours that are drawn from, the nearest being 1.
    #[serde(default = "ranks")]
    pub ranks: (usize, usize),
    /// From how many of a neighbour's strongest score-side windows; all if none.
    #[serde(default)]
    pub pool: Option<usize>,
    /// Of [`NegativeKind::PeakToken`]: whether every silent window with one of the latent's
    /// commonest peak tokens is equally likely (see [`Index::silent_strata`]), rather than that the
    /// tokens of its peaks take turns.
    #[serde(default)]
    pub even: bool,
}

fn ranks() -> (usize, usize) {
    (1, 10)
}

/// What to draw of each latent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Explain side.
    pub explain: ExplainPlan,
    /// Score-side windows of each decile.
    pub per_decile: usize,
    /// Score-side windows of each of `bins` bins, none of them drawn for a decile already.
    pub per_bin: usize,
    /// Bins of equal width, between 0 and the latent's largest activation, of the windows' maxima.
    pub bins: usize,
    /// Negatives of the score side; no window is in two of the lists.
    pub negatives: Vec<NegativePlan>,
    /// Tokens shown of each; the window if none.
    pub length: Option<usize>,
    /// Whether the peak stands in the middle of what is shown, rather than the middle of the window.
    pub centred: bool,
}

/// A plan that a latent could not fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Which latent.
    pub latent: u32,
    /// `explain`, `score`, `bins`, or the kind of negatives; `decoder_ranks` and
    /// `decoder_unfiltered_ranks` say how many the asked ranks gave, where others had to help.
    pub what: &'static str,
    /// Windows that the plan asks for.
    pub wanted: usize,
    /// Windows that there are.
    pub found: usize,
}

impl Plan {
    /// Refuses what cannot be drawn.
    pub(super) fn check(&self, index: &Index, sources: &Sources<'_>) -> Result<()> {
        let explain = &self.explain;
        if explain.kind == ExplainKind::Mixture && explain.n_top > explain.n {
            return Err(Error::input(format!(
                "`explain.n_top` is {} of `explain.n` {} windows",
                explain.n_top, explain.n
            )));
        }
        if self.bins == 0 && self.per_bin > 0 {
            return Err(Error::input("`bins` is 0; it must be at least 1"));
        }
        if let Some(length) = self.length
            && !(1..=index.context_length()).contains(&length)
        {
            return Err(Error::input(format!(
                "`length` is {length}; it must be from 1 to the context's {} tokens",
                index.context_length()
            )));
        }
        for (place, list) in self.negatives.iter().enumerate() {
            list.check(place, sources)?;
            if list.even && !Frame::of(self, index).on_grid() {
                return Err(Error::input(format!(
                    "`negatives[{place}].even` is of whole windows; leave out `length` and `centred`"
                )));
            }
        }
        sources.check(index)
    }

    /// Whether anything of the score side is drawn.
    pub(super) fn scores(&self) -> bool {
        self.per_decile > 0 || self.per_bin > 0 || self.negatives.iter().any(|list| list.n > 0)
    }
}

impl NegativePlan {
    /// Refuses a list for which something is not given.
    fn check(&self, place: usize, sources: &Sources<'_>) -> Result<()> {
        let name = self.kind.name();
        if self.even && self.kind != NegativeKind::PeakToken {
            return Err(Error::input(format!(
                "`negatives[{place}].even` is for kind `peak_token`, not `{name}`"
            )));
        }
        if self.kind == NegativeKind::Embedding && sources.nearest.is_none() {
            return Err(Error::input(format!(
                "`negatives[{place}]` is of kind `{name}` and needs the nearest windows; give \
                 `nearest=nearest_windows(index, latents, text)`"
            )));
        }
        if !self.kind.of_neighbours() {
            return Ok(());
        }
        let Some(table) = sources.neighbours else {
            return Err(Error::input(format!(
                "`negatives[{place}]` is of kind `{name}` and needs the latents' neighbours; give \
                 `neighbours=Neighbours.of(decoder).with_index(index)`"
            )));
        };
        if self.kind == NegativeKind::Decoder && table.relation.is_none() {
            return Err(Error::input(format!(
                "`negatives[{place}]` is of kind `{name}` and leaves out parents and children, \
                 which `neighbours` does not name; give `neighbours=neighbours.with_index(index)`"
            )));
        }
        let (first, last) = self.ranks;
        // Where a latent has every other one as a neighbour, there are no ranks to be missed.
        let all = (table.k + 1) * table.k >= table.ids.len();
        if first == 0 || first > last || last > table.k && !all {
            return Err(Error::input(format!(
                "`negatives[{place}].ranks` is ({first}, {last}); the first must be at least 1, \
                 and the last from there to the {} neighbours of a latent in `neighbours`",
                table.k
            )));
        }
        Ok(())
    }
}
