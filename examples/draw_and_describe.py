"""Draw an X-ray from findings text, then let the same model write its report and judge texts."""

import tempfile
from pathlib import Path

from unix_cxr import UniXPipeline


def main() -> None:
    pipe = UniXPipeline.from_pretrained("nano")
    out = pipe("AP chest radiograph of a child. Bacterial pneumonia.", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        (path,) = out.save(Path(folder))
        report = pipe.describe(path).reports[0]
        texts = ["No pneumonia.", "Bacterial pneumonia."]
        scores = pipe.score(path, texts)
    print(f"seed {out.seeds[0]}, {out.network_calls} network calls")
    print("report:", report)
    for text, score in zip(texts, scores, strict=True):
        print(f"{score:8.2f} nats  {text}")


if __name__ == "__main__":
    main()
