"""Reports: a batch equals its singles, the indication matters, likelihoods are likelihoods."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unix_cxr.defaults import IGNORED_LABEL, REPORT_PROMPT
from unix_cxr.models.context import Image as ImageSegment
from unix_cxr.models.context import Text
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.tokenizer import train_tokenizer


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).random((count, 48, 40), dtype=np.float32))


def test_a_batch_equals_singles(pipeline):
    images = pictures(3)
    prompts = ["Describe.", "Describe the heart of this patient, please.", "Lungs?"]
    together = pipeline.describe(images, prompts, max_new_tokens=6).reports
    alone = [
        pipeline.describe(image, prompt, max_new_tokens=6).reports[0]
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > 1


def test_one_image_or_a_path_or_pil(pipeline, xray):
    with Image.open(xray) as image:
        texts = {
            pipeline.describe(source, max_new_tokens=4).reports[0]
            for source in (xray, str(xray), xray.read_bytes(), image.copy())
        }
    assert len(texts) == 1


def test_the_indication_is_part_of_the_prompt(pipeline):
    processor = pipeline.processor
    assert processor.prompts(2, None, ["Cough.", None]) == [
        f"Indication: Cough. {REPORT_PROMPT}",
        REPORT_PROMPT,
    ]
    with pytest.raises(ValueError, match="3 indications for 2 images"):
        processor.prompts(2, None, ["a", "b", "c"])


def test_the_score_is_the_sum_of_log_probabilities(pipeline):
    """Against the context path: image, prompt and report as segments."""
    image, text = pictures(1)[0], "No pneumonia."
    processor, model = pipeline.processor, pipeline.model
    ids = processor.text_ids(text)
    with torch.no_grad():
        context = model.encode(
            [
                ImageSegment(processor.pixel_values([image])),
                Text(torch.tensor([processor.text_ids(REPORT_PROMPT)])),
                Text(torch.tensor([ids])),
            ]
        )
        logits = model.language_model.lm_head(context.hidden)[0]
    expected = -F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum")
    (score,) = pipeline.score(image, text)
    assert score == pytest.approx(float(expected), abs=1e-4)


def test_scores_of_many_texts_do_not_depend_on_their_company(pipeline):
    image = pictures(1)[0]
    texts = ["No pneumonia.", "Findings of bacterial pneumonia in a young child.", "Edema."]
    together = pipeline.score(image, texts)
    alone = [pipeline.score(image, text)[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-4)
    assert len(set(together)) == 3
    with pytest.raises(ValueError, match="3 texts for 2 images"):
        pipeline.score(pictures(2), texts)


def test_labels_are_the_report_and_its_end(pipeline):
    processor = pipeline.processor
    inputs = processor.with_reports(["Describe.", "Describe it."], ["Edema.", "No pneumonia."])
    for row, text in enumerate(("Edema.", "No pneumonia.")):
        labelled = inputs.labels[row][inputs.labels[row] != IGNORED_LABEL].tolist()
        assert labelled == processor.text_ids(text)[1:]
    assert (inputs.labels[inputs.attention_mask == 0] == IGNORED_LABEL).all()


def test_a_processor_needs_its_special_tokens():
    tokenizer = train_tokenizer(["pneumonia"], 270)
    with pytest.raises(ValueError, match=r"the tokenizer has no token '<image_start>'"):
        UniXProcessor(tokenizer, begin_of_image="<image_start>")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.zeros((1, 1), np.uint8), "an X-ray needs at least"),
        (lambda: b"not an image", "not an image that can be read"),
        (lambda: Image.new("L", (9000, 10_000)), r"90,000,000 pixels, more than the limit"),
    ],
)
def test_bad_images_are_refused(pipeline, make, message):
    with pytest.raises(ValueError, match=message):
        pipeline.describe(make())
