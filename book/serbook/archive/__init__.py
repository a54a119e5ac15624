"""Hand results back: one file with the run records that claims rest on, and nothing licensed.

    archive.json      what this is: profile, package and its source, the ledger, chapters
    claims.json       verdicts with what was measured, and the runs that they rest on
    runs/<run>.json   config, environment, learning curve, scores, and sums over each speaker

**No table of predictions is in it.** It would hold one label per utterance, which IEMOCAP and
MSP-Podcast do not let anybody pass on; under other names, too, who has the corpus could tell the
rows by their order. Instead there are sums over each speaker (`sums`), of which WA, UA, F1, WER and
CCC are functions; and intervals leave out whole speakers. So scores and intervals come out again to
the last digits. The speakers' names are hashed with a random key that nobody keeps, the same in all
runs of one archive, so that systems can still be compared in pairs. Of a speaker with one clip the sums are that clip's label, without
a name and without a key.

Not in it either are transcripts, keys, names of files and folders, of machines and users. Nothing
is searched for and removed; what is allowed is taken (`make`, `forms`), and `checking` holds an
archive against the same list. It finds accidents and plain smuggling, but no message that somebody
hides in the digits of a number.
"""
