// Shows the token once; the browser then keeps a cookie that no script can read.

const done = document.getElementById("done");

// Before anything is waited for: a form that nobody listens to loads the page anew, without what was typed.
document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const answer = await fetch("login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token: document.getElementById("token").value }),
    });
    if (answer.ok) location.reload();
    else done.textContent = (await answer.json()).error;
  } catch {
    done.textContent = "There is no connection to the watch.";
  }
});

// A link from elsewhere comes without the cookie, which is for this site's own requests only: then we are logged in.
if ((await fetch("session", { cache: "no-store" })).ok) location.reload();
