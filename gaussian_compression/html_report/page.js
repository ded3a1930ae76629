"use strict";
// Two pictures of one view in one place; the slider moves the boundary between them.
for (const view of document.querySelectorAll(".view")) {
  const stage = view.querySelector(".stage");
  const [left, right] = stage.querySelectorAll("img");
  const boundary = stage.querySelector(".boundary");
  const slider = view.querySelector("input");
  const [leftChoice, rightChoice] = view.querySelectorAll("select");

  const show = (image, kind) => {
    const picture = view.querySelector(`.pictures img[data-kind="${kind}"]`);
    image.src = picture.src;
    image.alt = picture.alt;
  };
  const place = () => {
    right.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    boundary.style.left = `${slider.value}%`;
  };
  const follow = (event) => {
    const area = stage.getBoundingClientRect();
    slider.value = (100 * (event.clientX - area.left)) / area.width;
    place();
  };

  leftChoice.addEventListener("change", () => show(left, leftChoice.value));
  rightChoice.addEventListener("change", () => show(right, rightChoice.value));
  slider.addEventListener("input", place);
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
  stage.addEventListener("dragstart", (event) => event.preventDefault());

  show(left, leftChoice.value);
  show(right, rightChoice.value);
  place();
  view.querySelector(".comparison").hidden = false;
}
