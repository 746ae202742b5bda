// Dark or light: as the system has it, until the button is pressed, or as #theme=dark asks.
const themeAsked = new URLSearchParams(location.hash.slice(1)).get("theme");
if (themeAsked === "dark" || themeAsked === "light") document.documentElement.dataset.theme = themeAsked;
const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
document.getElementById("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  dispatchEvent(new Event("themechange"));
});
