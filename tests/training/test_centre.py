import torch

from training.centre import Centre


def test_the_mean_of_all_micro_batches_enters_only_when_applied() -> None:
    centre = Centre((1, 1, 5), momentum=0.9)
    logits = torch.randn(10, 5)
    centre.add(logits[:3].sum(0), 3)
    centre.add(logits[3:].sum(0), 7)
    assert not centre.center.any()
    centre.apply_pending()
    torch.testing.assert_close(centre.center, 0.1 * logits.mean(0).view(1, 1, 5))
    before = centre.center.clone()
    centre.apply_pending()
    assert torch.equal(centre.center, before)


def test_a_step_without_rows_leaves_the_centre() -> None:
    centre = Centre((1, 4), momentum=0.9)
    centre.center.fill_(2.0)
    centre.add(torch.zeros(4), 0)
    centre.apply_pending()
    assert torch.equal(centre.center, torch.full((1, 4), 2.0))


def test_only_the_centre_is_part_of_a_checkpoint() -> None:
    centre = Centre((1, 4), momentum=0.9)
    centre.add(2 * torch.ones(4), 2)
    assert list(centre.state_dict()) == ["center"]
