"""Measures images and reports under torchrun, for the test that two processes equal one."""

import json
import sys
from pathlib import Path

import torch

from unix_cxr.evaluation.classifier import XrayClassifier
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.gathering import process_count, process_index
from unix_cxr.evaluation.imaging.extractors import ClassifierExtractor
from unix_cxr.evaluation.imaging.features import Extraction
from unix_cxr.evaluation.imaging.image_sets import open_images
from unix_cxr.evaluation.imaging.suite import ImageOptions, Judges, evaluate_images
from unix_cxr.evaluation.text.report_files import pair_reports, read_reports
from unix_cxr.evaluation.text.suite import evaluate_report_pairs


class Counting(ClassifierExtractor):
    looked_at = 0

    def __call__(self, images):
        self.looked_at += len(images)
        # one by one, so that the batches of two processes cannot differ in their last bits
        return torch.cat([super(Counting, self).__call__([image]) for image in images])


def main(real, drawn, train, classifier, reference, prediction, out):
    torch.distributed.init_process_group("gloo")
    extractor = Counting(XrayClassifier.from_pretrained(classifier))
    options = ImageOptions(
        resampling=Resampling(10),
        extraction=Extraction(8, progress=False),
        heavy_replicates=3,
        pairs=3,
    )
    seen = evaluate_images(
        open_images(real),
        open_images(drawn),
        Judges(extractor, metrics=[]),
        train=open_images(train),
        options=options,
    )
    pairs = pair_reports(read_reports(reference), read_reports(prediction), Resampling(20))
    written = evaluate_report_pairs(pairs, metrics=[])
    metrics = {
        result.name: [result.value, result.interval and [result.interval.low, result.interval.high]]
        for result in (*seen.results, *written.results)
    }
    if process_index() == 0:
        tree = {"processes": process_count(), "looked_at": extractor.looked_at, "metrics": metrics}
        Path(out).write_text(json.dumps(tree), encoding="utf-8")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
